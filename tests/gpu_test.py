"""The commands of benchmarks/gpu, without a GPU and without training."""

import errno
import importlib
import importlib.metadata
import json
import os
import pathlib
import re
import signal
import sys
import tarfile
import time
import tomllib
import types

import numpy as np
import pytest

import kd_jax
from kd_jax import errors
from kd_jax.benchmark import cost
from tests import children

ROOT = pathlib.Path(kd_jax.__file__).parents[1]


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
  """Their folder on the path, as where they run."""
  monkeypatch.syspath_prepend(str(ROOT / 'benchmarks' / 'gpu'))
  numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)
  kept = {number: signal.getsignal(number) for number in numbers}
  yield
  for number, handler in kept.items():
    signal.signal(number, handler)


def script(name):
  return importlib.import_module(name)


def archive(path):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (7, 6, 5, 3), np.uint8)
  images[0], images[1] = 0, 255
  arrays = {
    'train_images': images,
    'train_labels': np.arange(7, dtype=np.int32),
    'class_names': np.array(['a', 'bcd']),
    'scale': np.array(0.5, np.float32),
    'none': np.zeros((0, 4), np.int64),
  }
  np.savez(path, **arrays)
  return arrays


def parcels(folder, blocks=200):
  """Two parcels with the data set of `archive`, and its arrays."""
  made = folder / 'made'
  made.mkdir()
  arrays = archive(folder / 'given.npz')
  files = script('coded').write(folder / 'given.npz', made, blocks)
  half = len(files) // 2
  for name, own in (('one', files[:half]), ('two', files[half:])):
    (folder / name).mkdir()
    for path in own:
      path.rename(folder / name / path.name)
    script('chunks').write_sums(folder / name, [path.name for path in own])
  return arrays, [str(folder / 'one'), str(folder / 'two')]


def test_a_data_set_comes_out_of_its_parcels_as_it_went_in(tmp_path):
  arrays, given = parcels(tmp_path)
  assert len(list(tmp_path.glob('*/train_images.*'))) > 1
  assert script('unpack').main([str(tmp_path / 'out.npz'), *given]) == 0
  with np.load(tmp_path / 'out.npz') as found:
    assert set(found.files) == set(arrays)
    for name, array in arrays.items():
      assert found[name].dtype == array.dtype
      np.testing.assert_array_equal(found[name], array)


def test_smooth_images_are_coded_in_less_than_their_size():
  y, x = np.mgrid[:32, :32]
  plane = (4 * y + 3 * x).astype(np.uint8)
  images = np.stack([plane, plane + 9, plane + 30], -1)[None]
  assert len(script('coded').encode(images)) < images.nbytes / 4


def test_a_parcel_that_is_not_named_is_asked_for(tmp_path, capsys):
  _, given = parcels(tmp_path)
  assert script('unpack').main([str(tmp_path / 'out.npz'), given[0]]) == 2
  assert 'is in none of these parcels' in capsys.readouterr().err


def test_a_changed_byte_of_a_parcel_is_noticed(tmp_path, capsys):
  _, given = parcels(tmp_path)
  path = next(tmp_path.glob('*/train_images.00.z'))
  content = bytearray(path.read_bytes())
  content[-1] ^= 1
  path.write_bytes(content)
  assert script('unpack').main([str(tmp_path / 'out.npz'), *given]) == 2
  assert f'{path} does not have the SHA-256' in capsys.readouterr().err
  assert not (tmp_path / 'out.npz').exists()


def sized(folder, *sizes):
  paths = [folder / f'file{number}' for number in range(len(sizes))]
  for path, size in zip(paths, sizes, strict=True):
    path.write_bytes(bytes(size))
  return paths


def test_no_parcel_is_larger_than_the_limit(tmp_path):
  pack = script('pack')
  files = sized(tmp_path, 50_000, 60_000, 30_000, 20_000, 100_000)
  most = 100_000 + pack._SUMS
  found = pack.distribute(files, most)
  assert [[p.name[-1] for p in each] for each in found] == [
    ['0', '2', '3'], ['1'], ['4']
  ]  # fmt: skip


def test_a_file_over_a_parcels_limit_is_refused_in_one_line(tmp_path):
  pack = script('pack')
  with pytest.raises(errors.UsageError, match=r'file0 takes 2\.0 MiB') as info:
    pack.distribute(sized(tmp_path, 2 * pack.MIB), pack.MIB)
  assert '--max_mb' in str(info.value)
  assert '\n' not in str(info.value)


def not_archives(folder):
  """Files that are no .npz of arrays, each in another way."""
  np.save(folder / 'single.npy', np.arange(3))
  (folder / 'empty.npz').write_bytes(b'')
  np.savez_compressed(folder / 'whole.npz', a=np.arange(1000))
  whole = (folder / 'whole.npz').read_bytes()
  (folder / 'cut.npz').write_bytes(whole[:500])
  changed = bytearray(whole)
  changed[200:220] = bytes(20)
  (folder / 'changed.npz').write_bytes(changed)
  names = ('single.npy', 'empty.npz', 'cut.npz', 'changed.npz', 'none.npz')
  return [folder / name for name in names]


def test_data_that_cannot_be_read_is_refused_before_packages_are_installed(
  tmp_path, monkeypatch, capsys
):
  pack = script('pack')
  monkeypatch.setattr(pack, '_site', lambda *_: pytest.fail('too late'))
  given = [str(tmp_path / 'out'), f'--python={sys.executable}']
  for path in not_archives(tmp_path):
    assert pack.main([*given, f'--data={path}']) == 2
    said = capsys.readouterr().err
    assert f'{path} cannot be read' in said
    assert said.count('\n') == 1


@pytest.mark.parametrize(
  ('name', 'arguments', 'said'),
  [
    ('pack', ['out', '--max_mb=0'], '--max_mb=0 is too little'),
    ('pack', ['out', '--max_mb=x'], 'see pack.py --help'),
    ('unpack', ['out.npz'], 'see unpack.py --help'),
  ],
)
def test_a_wrong_option_of_the_packing_is_refused_in_one_line(
  name, arguments, said, capsys
):
  assert script(name).main(arguments) == 2
  found = capsys.readouterr().err
  assert said in found
  assert found.count('\n') == 1


def test_the_checkout_is_packed_as_it_is_committed(
  tmp_path, monkeypatch, capsys
):
  pack, place = script('pack'), tmp_path / 'project'
  place.mkdir()
  monkeypatch.setattr(pack, 'ROOT', place)
  git = ['git', '-C', str(place), '-c', 'user.name=a', '-c', 'user.email=b@c.d']
  (place / 'code.py').write_text('old')
  for command in (['init', '-q'], ['add', '.'], ['commit', '-qm', 'first']):
    children.run([*git, *command], check=True)
  (place / 'code.py').write_text('new')
  with tarfile.open(pack._checkout(tmp_path)) as tar:
    tar.extractall(tmp_path / 'out', filter='data')
  assert (tmp_path / 'out' / 'code.py').read_text() == 'old'
  assert len((tmp_path / 'out' / 'COMMIT').read_text().strip()) == 40
  assert 'not committed' in capsys.readouterr().out


def installed(site, name, files):
  facts = site / f'{name}-1.0.dist-info'
  facts.mkdir(parents=True)
  for path in files:
    (site / path).parent.mkdir(parents=True, exist_ok=True)
    (site / path).write_text('')
  record = f'{facts.name}/RECORD'
  lines = [f'{each},,' for each in (*files, f'../bin/{name}', record)]
  (facts / 'RECORD').write_text('\n'.join(lines))


def test_packages_that_the_machine_has_are_not_packed(tmp_path):
  pack = script('pack')
  site = tmp_path / 'site'
  installed(site, 'numpy', ['numpy/__init__.py'])
  installed(
    site, 'ml_collections', ['ml_collections/a.py', 'ml_collections/a_test.py']
  )
  packed = pack.write_site(site, tmp_path / 'site.tar.xz', {'numpy'})
  assert packed == ['ml-collections-1.0']
  with tarfile.open(tmp_path / 'site.tar.xz') as tar:
    files = [info.name for info in tar if info.isfile()]
  assert files == ['ml_collections/a.py', 'ml_collections-1.0.dist-info/RECORD']


def tree(folder):
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in sorted(folder.rglob('*'))
    if path.is_file()
  }


def test_a_folder_comes_back_from_chunks_of_a_limited_size(tmp_path):
  chunks = script('chunks')
  source = tmp_path / 'source'
  (source / 'run').mkdir(parents=True)
  (source / 'run' / 'a').write_bytes(bytes(range(256)) * 100)
  (source / 'b').write_bytes(b'b')
  found = {'run': source / 'run', 'b': source / 'b'}
  names = chunks.write_tar(tmp_path / 'kept', 'one', found, 9_000)
  assert len(names) > 2
  sizes = [(tmp_path / 'kept' / name).stat().st_size for name in names]
  assert max(sizes) <= 9_000
  chunks.read_tar(tmp_path / 'kept', tmp_path / 'back')
  assert tree(tmp_path / 'back') == tree(source)


def test_more_than_a_hundred_chunks_come_back_in_their_order(tmp_path):
  chunks = script('chunks')
  (tmp_path / 'a').write_bytes(bytes(range(256)) * 80)
  names = chunks.write_tar(tmp_path / 'kept', 'one', {'a': tmp_path / 'a'}, 200)
  assert len(names) > 101
  chunks.read_tar(tmp_path / 'kept', tmp_path / 'back')
  assert tree(tmp_path / 'back')['a'] == (tmp_path / 'a').read_bytes()


def test_new_chunks_take_the_place_of_the_older_ones(tmp_path):
  chunks = script('chunks')
  (tmp_path / 'a').write_bytes(b'1' * 20_000)
  chunks.write_tar(tmp_path / 'kept', 'one', {'a': tmp_path / 'a'}, 9_000)
  (tmp_path / 'a').write_bytes(b'2')
  names = chunks.write_tar(
    tmp_path / 'kept', 'two', {'a': tmp_path / 'a'}, 20_000
  )
  assert set(tree(tmp_path / 'kept')) == {*names, chunks.SUMS}
  chunks.read_tar(tmp_path / 'kept', tmp_path / 'back')
  assert (tmp_path / 'back' / 'a').read_bytes() == b'2'


def test_a_lost_chunk_is_noticed(tmp_path):
  chunks = script('chunks')
  (tmp_path / 'a').write_bytes(bytes(20_000))
  names = chunks.write_tar(
    tmp_path / 'kept', 'one', {'a': tmp_path / 'a'}, 9_000
  )
  (tmp_path / 'kept' / names[1]).unlink()
  with pytest.raises(errors.UsageError, match=f'{names[1]} is missing'):
    chunks.read_tar(tmp_path / 'kept', tmp_path / 'back')


def alive(number):
  """Whether a process runs; a dead one that nobody waited for does not."""
  try:
    stat = pathlib.Path(f'/proc/{number}/stat').read_text()
  except OSError:
    return False
  return stat.rpartition(')')[2].split()[0] != 'Z'


def test_a_deadline_ends_a_command_with_all_that_it_started(tmp_path):
  sleeps = 'import time; time.sleep(600)'
  starts = (
    'import signal, sys\nfrom subprocess import Popen\n'
    'signal.signal(signal.SIGTERM, signal.SIG_IGN)\n'
    f'one = Popen([sys.executable, "-c", "{sleeps}"], '
    'start_new_session=True)\n'
    'print(one.pid, flush=True)\n'
    'one.wait()'
  )
  log = tmp_path / 'log'
  ended = script('child').run(
    [sys.executable, '-c', starts], 1.0, log=log, grace_s=0.3
  )
  assert ended.stopped
  assert ended.code == -signal.SIGKILL
  assert ended.seconds < 10
  deadline = time.monotonic() + 10
  while alive(int(log.read_text())) and time.monotonic() < deadline:
    time.sleep(0.05)
  assert not alive(int(log.read_text()))


def test_a_command_that_is_stopped_may_end_by_itself(tmp_path):
  saves = (
    'import signal, sys, time\n'
    'signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n'
    'print("ready", flush=True)\n'
    'time.sleep(600)'
  )
  log = tmp_path / 'log'
  log.touch()
  ended = script('child').run(
    [sys.executable, '-c', saves],
    60.0,
    log=log,
    stop=lambda: log.stat().st_size > 0,
  )
  assert (ended.code, ended.stopped) == (75, True)


def test_a_command_that_ends_in_time_was_not_stopped(tmp_path):
  ended = script('child').run(
    [sys.executable, '-c', 'raise SystemExit(3)'], 60.0, log=tmp_path / 'log'
  )
  assert (ended.code, ended.stopped) == (3, False)


def test_a_module_of_every_package_that_kd_jax_needs_is_imported_first():
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text())
  needed = {
    script('pack').plain(re.split(r'[\[><=]', text)[0])
    for text in project['project']['dependencies']
  }
  owners = importlib.metadata.packages_distributions()
  tops = [name.split('.')[0] for name in script('imports').MODULES]
  named = {
    script('pack').plain(owner) for top in tops for owner in owners.get(top, ())
  }
  assert needed <= named


def test_a_module_that_is_missing_is_named_with_exit_code_2(
  tmp_path, monkeypatch, capsys
):
  (tmp_path / 'simplejpeg.py').write_text('raise ImportError("no such file")')
  run = script('run')
  path = f'{tmp_path}{os.pathsep}{run.PATHS["PYTHONPATH"]}'
  monkeypatch.setitem(run.PATHS, 'PYTHONPATH', path)
  assert run.main([str(tmp_path / 'out'), '--platform=cpu']) == 2
  said = capsys.readouterr().err
  assert 'cannot import simplejpeg (ImportError: no such file)' in said
  assert not (tmp_path / 'out').exists()


ABOUT = {'platform': 'cpu', 'hardware': 'fake', 'cores': 1, 'versions': {}}


@pytest.fixture
def parts(tmp_path, monkeypatch):
  """Parts that are written by the test: parts(check='raise ...')."""
  run = script('run')
  monkeypatch.setattr(run, 'HERE', tmp_path)
  monkeypatch.setattr(run, '_about', lambda *_: ABOUT)
  monkeypatch.setattr(run, '_LEAST_S', 0.5)
  monkeypatch.setattr(run, '_TRAIN_S', 0.5)

  def write(**codes):
    for name, code in codes.items():
      (tmp_path / f'{name}.py').write_text(code)
    return run

  return write


KEEPS = (
  'import json, pathlib, sys\n'
  'given = json.loads(pathlib.Path(sys.argv[1]).read_text())\n'
  'text = json.dumps({"text": "the checks"})\n'
  '(pathlib.Path(given["results"]) / "check.json").write_text(text)\n'
  'print("all is well")'
)


def test_a_part_that_fails_or_runs_over_is_reported_and_the_next_begins(
  parts, tmp_path, capsys
):
  run = parts(
    check=KEEPS + '\nraise SystemExit("it broke")',
    table='import time; print("begun", flush=True); time.sleep(600)',
    train='print("trained")',
  )
  out = tmp_path / 'out'
  code = run.main([str(out), '--seconds=60', '--table_s=1'])
  assert code == 1
  kept = json.loads((out / 'results' / 'run.json').read_text())['parts']
  states = {name: part['state'] for name, part in kept.items()}
  assert states == {'check': 'failed', 'table': 'ran over', 'train': 'done'}
  said = capsys.readouterr().out
  assert 'the checks' in said
  assert 'check| it broke' in said
  assert 'table| begun' in said
  assert said.splitlines()[-2].startswith('train  done after 0 s: trained')


def test_a_folder_and_a_recipe_may_be_named_from_where_one_stands(
  tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  assert script('run').parse(['out']).out == tmp_path / 'out'
  (tmp_path / 'mine.py').write_text('')
  options = {'data': '', 'seed': 0, 'train_arg': []}
  for recipe, wanted in (
    ('mine.py:small', f'--config={tmp_path}/mine.py:small'),
    ('tf_fd:digits', '--config=tf_fd:digits'),
  ):
    given = {**options, 'recipe': recipe}
    assert wanted in script('train').arguments(given, tmp_path / 'place')


def test_a_part_without_time_is_not_begun(parts, tmp_path, monkeypatch):
  run = parts(check='import time; time.sleep(600)', train='print(1)')
  out = tmp_path / 'out'
  arguments = ['--seconds=3', '--check_s=2', '--parts=train,check']
  monkeypatch.setattr(run, '_END_S', 0.5)
  assert run.main([str(out), *arguments]) == 1
  kept = json.loads((out / 'results' / 'run.json').read_text())['parts']
  assert [part['state'] for part in kept.values()] == ['ran over', 'no time']


def test_training_is_not_begun_just_to_be_stopped(parts, tmp_path):
  run = parts(train='raise SystemExit("must not begin")')
  out = tmp_path / 'out'
  arguments = ['--parts=train', '--seconds=60', '--stop_s=55']
  assert run.main([str(out), *arguments]) == 1
  kept = json.loads((out / 'results' / 'run.json').read_text())['parts']
  assert kept['train']['state'] == 'no time'


def test_sigterm_ends_the_part_at_work_and_no_other_begins(parts, tmp_path):
  run = parts(
    check='import os, signal, time\n'
    'os.kill(os.getppid(), signal.SIGTERM)\ntime.sleep(600)',
    table='raise SystemExit("must not begin")',
  )
  out = tmp_path / 'out'
  assert run.main([str(out), '--seconds=60', '--parts=check,table']) == 75
  kept = json.loads((out / 'results' / 'run.json').read_text())['parts']
  assert [part['state'] for part in kept.values()] == ['stopped', 'stopped']


@pytest.mark.parametrize(
  ('arguments', 'said'),
  [
    (['--parts=check,tables'], "unknown value of --parts: 'tables'"),
    (['--seconds=5'], '--seconds=5 is too little'),
    (['--chunk_mb=0'], '--chunk_mb=0 is too little: give at least 1'),
    (['--train_s=30'], '--train_s=30 is too little: give at least 65'),
    (['--resume=nowhere'], '--resume=nowhere holds no SHA256SUMS'),
  ],
)
def test_a_wrong_option_is_refused_in_one_line(
  arguments, said, tmp_path, capsys
):
  assert script('run').main([str(tmp_path / 'out'), *arguments]) == 2
  found = capsys.readouterr().err
  assert said in found
  assert found.count('\n') == 1


def test_an_option_beside_tiny_wins():
  args = script('run').parse(['out', '--tiny', '--steps=7'])
  assert (args.steps, args.student) == (7, 'resnet8')


# Counts up in checkpoints/, from the newest one that is there.
COUNTS = """
import pathlib, shutil, signal, sys, time
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
run = pathlib.Path(sys.argv[1])
folder = run / 'checkpoints'
folder.mkdir(parents=True, exist_ok=True)
(run / 'config.json').write_text('{}')
step = max((int(p.name) for p in folder.iterdir()), default=0)
print('from step', step, flush=True)
while not stop:
  step += 1
  (folder / 'part').mkdir()
  (folder / 'part' / 'array').write_bytes(bytes(3000))
  (folder / 'part').rename(folder / str(step))
  (run / 'metrics.jsonl').write_text(str(step))
  if step > 2 and (folder / str(step - 2)).exists():
    shutil.rmtree(folder / str(step - 2))
  time.sleep(0.05)
sys.exit(75)
"""


def trained(tmp_path, monkeypatch, name, resume=None, counts=COUNTS, code=0):
  """Trains in the folder `name` for three seconds; returns results and log."""
  train, out = script('train'), tmp_path / name
  (out / 'results').mkdir(parents=True)
  (out / 'work').mkdir()
  monkeypatch.setattr(
    train,
    'arguments',
    lambda options, place: [sys.executable, '-c', counts, str(place / 'run')],
  )
  options = {
    'results': str(out / 'results'), 'work': str(out / 'work'),
    'resume': resume and str(resume), 'chunk_mb': 1, 'keep_s': 0.2,
    'seconds': 13.0, 'stop_s': 10.0,
  }  # fmt: skip
  (out / 'options.json').write_text(json.dumps(options))
  assert train.main(str(out / 'options.json')) == code
  log = (out / 'work' / 'train_main.log').read_text()
  return out / 'results' / 'train', log


def test_a_run_that_does_not_save_when_it_is_told_to_stop_has_failed(
  tmp_path, monkeypatch
):
  trained(
    tmp_path, monkeypatch, 'first', counts='import time; time.sleep(9)', code=1
  )


def test_a_run_that_is_finished_may_be_stopped_as_it_ends(
  tmp_path, monkeypatch, capsys
):
  ends = (
    'import pathlib, sys, time\n'
    'pathlib.Path(sys.argv[1]).mkdir()\n'
    '(pathlib.Path(sys.argv[1]) / "result.json").write_text('
    '\'{"top1": 71.5}\')\n'
    'time.sleep(9)'
  )
  results, _ = trained(tmp_path, monkeypatch, 'first', counts=ends)
  assert (results / 'result.json').exists()
  assert 'finished: 71.50% top-1' in capsys.readouterr().out


def test_an_npz_file_has_the_same_name_on_every_machine(tmp_path):
  train, names = script('train'), set()
  for machine in ('here', 'there'):
    place = tmp_path / machine / 'train'
    place.mkdir(parents=True)
    (tmp_path / machine / 'set.npz').write_text(machine)
    names.add(train.data_name(f'npz:{tmp_path / machine}/set.npz', place))
    assert (place / 'set.npz').read_text() == machine
  assert names == {'npz:set.npz'}


def newest(place):
  return max(int(p.name) for p in (place / 'run' / 'checkpoints').iterdir())


def test_a_run_goes_on_elsewhere_from_its_chunks(tmp_path, monkeypatch):
  results, log = trained(tmp_path, monkeypatch, 'first')
  assert log == 'from step 0\n'
  last = newest(tmp_path / 'first' / 'work' / 'train')
  assert last > 1
  assert (results / 'metrics.jsonl').read_text() == str(last)
  _, log = trained(tmp_path, monkeypatch, 'second', resume=results)
  assert log == f'from step {last}\n'


def test_a_checkpoint_that_cannot_be_kept_is_kept_at_the_next_try(
  tmp_path, monkeypatch, capsys
):
  train, whole = script('train'), script('chunks').write_tar
  run = tmp_path / 'run'
  (run / 'checkpoints' / '9').mkdir(parents=True)
  (run / 'config.json').write_text('')
  keeper = train.Keeper(tmp_path, tmp_path / 'kept', 1000)

  def full(*arguments):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(train.chunks, 'write_tar', full)
  assert not keeper.keep()
  assert capsys.readouterr().out.count('No space left on device') == 1
  monkeypatch.setattr(train.chunks, 'write_tar', whole)
  assert keeper.keep()
  assert (tmp_path / 'kept' / 'SHA256SUMS').exists()


def test_only_the_newest_whole_checkpoint_of_a_run_is_kept(tmp_path):
  run = tmp_path / 'run'
  for name in ('9', '10', '11.orbax-checkpoint-tmp'):
    (run / 'checkpoints' / name).mkdir(parents=True)
  for name in ('config.json', 'events.out', '.lock', 'log.txt.part'):
    (run / name).write_text('')
  found = script('train').members(tmp_path)
  assert set(found) == {'run/config.json', 'run/checkpoints/10'}


@pytest.fixture
def lab(tmp_path):
  for name in ('results', 'work'):
    (tmp_path / name).mkdir()
  options = {
    'results': str(tmp_path / 'results'), 'work': str(tmp_path / 'work'),
    'seconds': 30.0,
  }  # fmt: skip
  return script('lab').Lab(options, 3)


def reported(lab):
  path = pathlib.Path(lab.options['results']) / 'check.json'
  return json.loads(path.read_text())


def test_a_check_that_fails_is_reported_beside_those_that_pass(lab):
  check = script('check')

  def passes(lab):
    """This one passes."""
    return 'all is well'

  def fails(lab):
    """This one fails."""
    lab.command('broken', ['-c', 'print("why"); raise SystemExit(4)'])

  assert [check.checked(lab, each) for each in (fails, passes)] == [False, True]
  found = reported(lab)
  assert [each['ok'] for each in found['checks']] == [False, True]
  assert found['checks'][0]['said'] == 'broken ended with 4 and not 0: why'
  assert 'FAILED This one fails (0 s)' in found['text']
  assert '(1 more had no time)' in found['text']


def test_a_check_without_time_says_so(lab):
  check = script('lab')
  lab._last = time.monotonic() + 0.2
  with pytest.raises(check.Failed, match='slow: no time is left'):
    lab.command('slow', ['-c', 'import time; time.sleep(600)'])


def compared(lab, monkeypatch, one, other, **kwargs):
  """What the check says of two runs with these arrays."""
  check, arrays = script('lab'), {'one': one, 'other': other}
  monkeypatch.setattr(
    check.trained,
    'load',
    lambda path: types.SimpleNamespace(
      weights={k: np.float32(v) for k, v in arrays[path.name].items()}
    ),
  )
  return check.compared(lab, 'one', 'other', **kwargs)


def test_runs_are_compared_bit_for_bit(lab, monkeypatch):
  same = {'w': [1.0, -0.0], 'b': [np.nan]}
  said = compared(lab, monkeypatch, same, dict(same))
  assert said == '2 arrays are equal bit for bit'
  with pytest.raises(script('lab').Failed, match='1 of 2 arrays differ'):
    compared(lab, monkeypatch, same, {**same, 'w': [1.0, 0.0]})


def test_the_largest_difference_of_two_runs_is_said(lab, monkeypatch):
  one, other = {'w': [1.0, 2.0], 'b': [0.5]}, {'w': [1.0, 2.25], 'b': [0.625]}
  said = compared(lab, monkeypatch, one, other, most=0.25)
  assert said == '2 of 2 arrays differ, by up to 0.25 (w)'
  with pytest.raises(script('lab').Failed, match=r'up to 0\.25 .* 0\.2 is'):
    compared(lab, monkeypatch, one, other, most=0.2)


def test_numbers_that_are_not_finite_are_not_close_to_any(lab, monkeypatch):
  for bad in (np.nan, np.inf):
    with pytest.raises(script('lab').Failed, match=r'w holds .* not finite'):
      compared(lab, monkeypatch, {'w': [bad]}, {'w': [bad]}, most=1.0)


class Fake:
  """Takes turns of a millisecond, until it ends."""

  def __init__(self, turns):
    self.turns, self.closed = turns, False

  def turn(self, steps):
    if not self.turns:
      raise errors.UsageError('it ended with code 1')
    self.turns -= 1
    return cost.Turn(1.0 * steps)

  def close(self):
    self.closed = True


def table(tmp_path, **options):
  (tmp_path / 'results').mkdir()
  given = {
    'results': str(tmp_path / 'results'), 'seconds': 100.0, 'repeats': 3,
    'steps': 2, 'lanes': 2, **options,
  }  # fmt: skip
  return script('table').Table(given)


def test_a_row_that_ends_in_its_turn_leaves_the_others_to_theirs(tmp_path):
  made = table(tmp_path)
  made.ready = {'whole': Fake(99), 'ends': Fake(2)}
  ending = made.ready['ends']
  made.take_turns()
  assert len(made.times['whole']) == 3
  assert made.left_out == {'ends': 'it ended with code 1'}
  assert ending.closed
  kept = json.loads((tmp_path / 'results' / 'table.json').read_text())
  assert kept['rounds'] == 3
  assert 'left out: ends: it ended with code 1' in kept['text']


def test_a_table_without_time_for_turns_says_so(tmp_path):
  made = table(tmp_path, seconds=-1.0)
  made.ready['whole'] = Fake(99)
  made.left_out['late'] = 'it was not ready in time'
  made.take_turns()
  kept = json.loads((tmp_path / 'results' / 'table.json').read_text())
  assert kept['rows'] == []
  assert 'left out: late: it was not ready in time' in kept['text']


def test_a_row_that_is_not_ready_in_time_is_left_out(tmp_path):
  made = table(tmp_path, seconds=0.5)

  def slow():
    time.sleep(2.0)
    late.append(Fake(9))
    return late[0]

  def broken():
    raise errors.UsageError('it cannot run here')

  late = []
  waiting = {'quick': lambda: Fake(9), 'slow': slow, 'broken': broken}
  script('table').start_all(made, waiting)
  assert list(made.ready) == ['quick']
  assert made.left_out['slow'] == 'it was not ready in time'
  time.sleep(2.2)
  assert late[0].closed


def test_a_turn_that_does_not_end_is_cut_off(tmp_path, monkeypatch):
  table_script, one = script('table'), Fake(9)
  monkeypatch.setattr(table_script, '_OVER_S', 0.2)
  monkeypatch.setattr(
    table_script.rows, 'makers', lambda _: {'KD': lambda: one}
  )
  monkeypatch.setattr(one, 'turn', lambda steps: time.sleep(60))
  options = {**table(tmp_path).options, 'seconds': 0.5}
  (tmp_path / 'options.json').write_text(json.dumps(options))
  with pytest.raises(SystemExit) as ended:
    table_script.main(str(tmp_path / 'options.json'))
  assert ended.value.code == 128 + signal.SIGALRM
  assert one.closed


def row(kind, ms, **facts):
  """A row that is ready, without its process."""
  one = object.__new__(kind)
  for name, value in facts.items():
    setattr(one, name, value)
  return one, [cost.Turn(float(ms))] * 3


def figures(tmp_path, theirs, products=True):
  """The table of KD at 2, PyTorch's at 5 and Tf-FD at 4 ms a step."""
  rows, made = script('rows'), table(tmp_path)
  costs = cost.Costs(4e9, None, None, None, None)
  ours = {
    'costs': costs, 'batch_size': 64, 'dtype': 'float32', 'count': 1,
    'compile_s': 1.0, 'chips': 1, 'peak_bytes': 9_000_000, 'sizes': (10, 0),
    'extra_params': 0, 'kept_params': 10,
  }  # fmt: skip
  about = {
    'compile_s': 3.0, 'dtype': 'float32', 'memory_bytes': None,
    'params': 10, 'extra_params': 0,
  }  # fmt: skip
  peer = {'label': 'eager', 'about': about, 'sizes': theirs}
  product = {'label': 'product', 'flops': 1e10, 'dtype': 'float32'}
  for name, (one, times) in {  # in the order in which they were ready
    'matrix product float32': row(rows.Product, 1.0, **product),
    'KD PyTorch eager': row(rows.Torch, 5.0, **peer),
    'Tf-FD': row(rows.Ours, 4.0, **ours, label='Tf-FD'),
    'KD': row(rows.Ours, 2.0, **ours, label='KD'),
  }.items():
    made.ready[name], made.times[name] = one, times
  if not products:
    del made.ready['matrix product float32']
  made.write(3)
  return json.loads((tmp_path / 'results' / 'table.json').read_text())


def test_a_row_says_its_ratio_to_ours_and_its_share_of_the_peak(tmp_path):
  ours, theirs, other = figures(tmp_path, (10, 0))['rows']
  assert (ours['ms'], ours['share']['median']) == (2.0, 0.2)
  assert ours['flops_per_s'] == 2e12
  assert (theirs['config'], theirs['ratio']) == ('eager', 2.5)
  assert (other['config'], other['ratio']) == ('Tf-FD', 2.0)
  assert theirs['ratio_to'] == other['ratio_to'] == 'KD'


def test_without_its_matrix_product_a_row_only_lacks_its_share(tmp_path):
  found = figures(tmp_path, (10, 0), products=False)
  ours, theirs, other = found['rows']
  assert 'share' not in ours
  assert (ours['flops_per_s'], theirs['ratio'], other['ratio']) == (
    2e12, 2.5, 2.0
  )  # fmt: skip
  assert '2e+03 G' in found['text']
  assert 'a large matrix product, not timed' in found['text']


def test_a_loop_of_pytorch_that_trains_another_network_is_left_out(tmp_path):
  found = figures(tmp_path, (11, 0))
  assert [each['config'] for each in found['rows']] == ['KD', 'Tf-FD']
  assert 'left out: KD PyTorch eager: it trains (11, 0)' in found['text']


OPTIONS = {
  'rows': '', 'student': 'resnet8', 'teacher': 'resnet8', 'image_size': 8,
  'batch_size': 4, 'images': 16, 'compile_mode': 'default',
}  # fmt: skip


def test_a_row_of_pytorch_brings_the_row_that_it_is_compared_with():
  rows = script('rows')
  assert rows.chosen({'rows': 'KD PyTorch compiled bf16'}) == [
    'KD bf16', 'KD PyTorch compiled bf16'
  ]  # fmt: skip
  with pytest.raises(errors.UsageError, match="unknown value of --rows: 'KDD'"):
    rows.chosen({'rows': 'KDD'})


def test_without_pytorch_our_rows_remain_and_one_line_says_so(
  monkeypatch, capsys
):
  rows = script('rows')
  monkeypatch.setattr(rows.importlib.util, 'find_spec', lambda name: None)
  found = rows.makers(OPTIONS)
  assert not [name for name in found if 'PyTorch' in name]
  assert {'KD', 'matrix product float32', 'matrix product bfloat16'} <= set(
    found
  )
  assert capsys.readouterr().out.count('PyTorch is not installed') == 1


def test_the_loops_of_pytorch_know_the_tables_configurations():
  rows = script('rows')
  names = [name for name, row in rows.ROWS.items() if 'of' in row]
  given = rows.torch_given(names[0], OPTIONS)
  assert given['method'] == 'kd'
  assert given['compile_mode'] == 'default'
  of = {rows.ROWS[name]['of'] for name in names}
  assert {rows.ROWS[name]['config'] for name in of} == {
    rows.ROWS['KD']['config']
  }
