"""The files of results."""

import hashlib
import json
import pathlib
import re
import shlex

import numpy as np
import pytest

from kd_jax import config as config_lib
from kd_jax import errors
from kd_jax.reproduce import cells, runner, store
from kd_jax.runtime import run_dir
from tests import children

ROOT = pathlib.Path(__file__).parent.parent.parent
RESULTS = ROOT / 'results'
KNOWN = {cell.recipe: cell for cell in cells.load()}


def test_an_epoch_is_a_line_whose_losses_are_means_over_its_steps():
  records = [
    {'step': 1, 'epoch': 0.25, 'train/total': 8.0, 'rate': 0.1},
    {
      'step': 4,
      'epoch': 1.0,
      'train/total': 4.0,
      'rate': 0.2,
      'test/top1': 9.0,
    },
    {'step': 6, 'epoch': 1.5, 'step/total': 7.0},
    {'step': 8, 'epoch': 2.0, 'train/total': 1 / 3, 'time/saving': 3.0},
    {'step': 9, 'epoch': 2.25, 'train/total': 1.0, 'train/weighted/ce': 1.0},
  ]
  assert store.thinned(records, 4) == [
    {
      'step': 4,
      'epoch': 1.0,
      'train/total': 5.0,
      'rate': 0.2,
      'test/top1': 9.0,
    },
    {'step': 8, 'epoch': 2.0, 'train/total': 0.333333},
    {'step': 9, 'epoch': 2.25, 'train/total': 1.0},
  ]


def finished(folder, **more):
  """Writes what `reproduce add` needs of a run."""
  folder.mkdir()
  result = {
    'method': 'kd', 'network': 'resnet8', 'seed': 3, 'steps': 8, 'epochs': 2,
    'data': 'npz:/a/b.npz', 'top1': 1.0, 'teacher': {'from': '/a/cache/t'},
    **more,
  }  # fmt: skip
  (folder / 'result.json').write_text(json.dumps(result))
  records = [{'step': 4 * i, 'epoch': i, 'test/top1': i} for i in (1, 2)]
  lines = [json.dumps(record) for record in records]
  (folder / 'metrics.jsonl').write_text('\n'.join([*lines, '{"st']))
  return folder


def test_a_file_has_an_epoch_a_line_and_no_path_of_the_machine(tmp_path):
  cell, run = KNOWN['kd:digits'], finished(tmp_path / 'run')
  assert runner.add(cell, run, tmp_path / 'out') == runner.Task(cell, 3)
  path = tmp_path / 'out/kd-digits/seed-3.json'
  text = path.read_text()
  assert len(re.findall(r'^ *\{"step".*"test/top1": \d\},?$', text, re.M)) == 2
  held = store.stand(tmp_path / 'out', cell).done[3]
  assert held['result']['data'] == 'npz:b.npz'
  assert held['result']['teacher']['from'] == 't'
  assert held['notes'] == ['the configuration of this run was not kept']
  assert [*path.parent.iterdir()] == [path]


def test_a_run_of_something_else_is_refused(tmp_path):
  cell = KNOWN['kd:digits']
  run = finished(tmp_path / 'run', network='resnet20')
  with pytest.raises(
    errors.UsageError, match=r'resnet20. there, .resnet8. her'
  ):
    runner.add(cell, run, tmp_path)
  run = finished(tmp_path / 'other')
  config = config_lib.load('kd:digits')
  config.seed = 3
  (run / 'config.json').write_text(json.dumps(config_lib.plain(config)))
  assert runner.add(cell, run, tmp_path).seed == 3
  config.epochs = 7
  (run / 'config.json').write_text(json.dumps(config_lib.plain(config)))
  with pytest.raises(errors.UsageError, match=r'config.epochs: 7 there'):
    runner.add(cell, run, tmp_path)


def of_cifar(tmp_path, name, **changes):
  """Writes a finished run of Tf-FD on a data set of 100 classes."""
  config = config_lib.load('tf_fd:cifar100_r20')
  config.seed, config.data.name, config.baseline = 3, name, 'off'
  run = finished(
    tmp_path / re.sub(r'\W', '_', f'{name}{changes}'),
    method='tf_fd',
    network='resnet20',
    data=name,
  )
  opened = {
    'class_names': [str(k) for k in range(100)],
    'num_train': 50_000,
    'num_test': 10_000,
    **changes,
  }
  written = {**config_lib.plain(config), 'data_facts': opened}
  (run / 'config.json').write_text(json.dumps(written))
  return run


def test_a_run_on_other_data_is_refused(tmp_path):
  cell = KNOWN['tf_fd:cifar100_r20']
  for name in ('cifar100', 'npz:cifar100.npz', 'mine.sets:cifar'):
    run = of_cifar(tmp_path, name)
    assert runner.add(cell, run, tmp_path / 'out').seed == 3
  with pytest.raises(
    errors.UsageError, match=r"data\.name: 'cifar10' there, 'cifar100' here"
  ):
    runner.add(cell, of_cifar(tmp_path, 'cifar10'), tmp_path / 'out')
  for change, message in (
    ({'class_names': ['cat', 'dog']}, r'classes=2, and cifar100 has 100'),
    ({'num_train': 300}, r'num_train=300, and cifar100 has 50000'),
    ({'num_test': 300}, r'num_test=300, and cifar100 has 10000'),
  ):
    run = of_cifar(tmp_path, 'npz:small.npz', **change)
    with pytest.raises(errors.UsageError, match=f'npz:small.npz: {message}'):
      runner.add(cell, run, tmp_path / 'out')


def test_data_from_elsewhere_must_have_the_cells_sizes(tmp_path):
  path = tmp_path / 'small.npz'
  rng = np.random.default_rng(0)
  arrays = {}
  for split, count in (('train', 6), ('test', 4)):
    images = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
    arrays[f'{split}_images'] = images
    arrays[f'{split}_labels'] = np.arange(count) % 2
  np.savez(path, **arrays)
  task = runner.Task(KNOWN['tf_fd:cifar100_r20'], 0)
  with pytest.raises(errors.UsageError, match=r'--data=npz:.* has 50000'):
    runner.check_data(task, f'npz:{path}')


def test_a_damaged_file_is_named(tmp_path):
  path = store.path_of(tmp_path, KNOWN['kd:digits'], 0)
  path.parent.mkdir()
  path.write_text('{"result": ')
  with pytest.raises(errors.UsageError, match=r'seed-0\.json is damaged'):
    store.stand(tmp_path, KNOWN['kd:digits'])


def test_every_result_belongs_to_a_cell_and_is_as_the_command_writes_it():
  names = {cell.name for cell in KNOWN.values()}
  there = sorted(RESULTS.glob('*/seed-*.json'))
  assert there
  for path in there:
    assert path.parent.name in names
    held = json.loads(path.read_text())
    assert store.text_of(held) == path.read_text()
    assert path.name == f'seed-{held["seed"]}.json'
    assert KNOWN[held['cell']].name == path.parent.name


UNFINISHED = sorted(RESULTS.glob('*/unfinished-seed-*'))


@pytest.mark.parametrize('folder', UNFINISHED, ids=str)
def test_an_unfinished_run_goes_on_as_the_readme_says(folder, tmp_path):
  seed = int(folder.name.rpartition('-')[2])
  (cell,) = [c for c in KNOWN.values() if c.name == folder.parent.name]
  for line in (folder / 'SHA256SUMS').read_text().splitlines():
    digest, _, name = line.partition('  ')
    found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    assert found == digest
  readme = (RESULTS / 'README.md').read_text()
  (block,) = re.findall(r'```bash\n(mkdir .*?)```', readme, re.S)
  *unpack, go_on = block.replace('\\\n', '').strip().splitlines()
  (tmp_path / 'results').symlink_to(RESULTS)
  script = '\n'.join(unpack)
  children.run(['bash', '-ec', script], cwd=tmp_path, check=True)
  words = shlex.split(go_on)
  assert words[:4] == ['kd-jax', 'reproduce', 'run', cell.recipe]
  data = words[words.index('--data') + 1]
  assert words[words.index('--seeds') + 1] == str(seed)
  places = runner.Places(RESULTS, tmp_path / 'runs/reproduce', data)
  task = runner.Task(cell, seed)
  run = run_dir.Folder(places.run_of(task))
  config = runner.configuration(task, data)
  facts = run.read('config.json')['data_facts']
  run.claim(config_lib.plain(config), facts)  # the same configuration
  stand = store.stand(RESULTS, cell, places.work)
  assert stand.unfinished[seed] == store.epochs_done(folder) > 0
