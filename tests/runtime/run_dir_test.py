import contextlib
import json
import os

import pytest

from kd_jax import config as config_lib
from kd_jax import data, errors
from kd_jax.runtime import logging, run_dir
from kd_jax.training import teacher

INFO = data.open_source('digits').info


def config(**changes):
  made = config_lib.digits()
  made.update(changes)
  return made


def open_files(place):
  """Returns the files of a folder that this process has open."""
  found = []
  for number in os.listdir('/proc/self/fd'):
    with contextlib.suppress(OSError):  # closed since, by another thread
      found.append(os.readlink(f'/proc/self/fd/{number}'))
  return [name for name in found if name.startswith(str(place))]


def claim(folder, config, info=INFO):
  folder.claim(config_lib.plain(config), info.identity())


def test_other_data_under_the_same_name_is_refused(tmp_path):
  folder = run_dir.Folder(tmp_path / 'run')
  claim(folder, config())
  with pytest.raises(errors.UsageError, match=r'num_train: 1437 there'):
    claim(folder, config(), INFO._replace(num_train=1400))


def test_what_a_kill_at_the_very_start_leaves_is_no_hindrance(tmp_path):
  (tmp_path / 'config.json.part').write_text('{')
  folder = run_dir.Folder(tmp_path)
  claim(folder, config())
  assert folder.read('config.json')['method'] == config().method


@pytest.mark.parametrize('content', ['', '{"steps": 8', '\0' * 9])
def test_a_file_that_is_cut_off_is_set_aside_with_a_line(
  tmp_path, capsys, content
):
  folder = run_dir.Folder(tmp_path)
  claim(folder, config())
  folder.write('data.json', {'place': '/data'})
  (tmp_path / 'result.json').write_text(content)
  folder.set_aside_cut()
  assert 'result.json is cut off' in capsys.readouterr().out
  assert (tmp_path / 'result.json.cut').read_text() == content
  assert folder.read('result.json') is None
  assert folder.read('data.json') == {'place': '/data'}


def test_what_is_no_file_is_refused_without_a_wait_or_an_open_descriptor(
  tmp_path,
):
  folder = run_dir.Folder(tmp_path)
  claim(folder, config())
  os.mkfifo(tmp_path / 'result.json')
  (tmp_path / 'teacher.json').mkdir()
  folder.set_aside_cut()
  with (tmp_path / 'open').open('w'):
    assert open_files(tmp_path) == [str(tmp_path / 'open')]
  for name in ('result.json', 'teacher.json'):
    with pytest.raises(errors.UsageError, match='is no regular file'):
      folder.read(name)
  assert not open_files(tmp_path)


def test_a_cut_configuration_is_set_aside_at_the_start_of_a_run_only(tmp_path):
  folder = run_dir.Folder(tmp_path)
  (tmp_path / 'config.json').write_text('{')
  (tmp_path / '.lock').touch()
  folder.set_aside_cut()
  claim(folder, config())
  (tmp_path / 'config.json').write_text('{')
  (tmp_path / 'checkpoints').mkdir()
  with pytest.raises(errors.UsageError, match='is cut off'):
    folder.set_aside_cut()
  assert (tmp_path / 'config.json').read_text() == '{'


def test_a_teachers_recipe_leaves_the_runs_configuration_alone():
  made = config()
  made.teacher.recipe.data = {'crop_padding': 0}
  assert config_lib.of_teacher(made).data.crop_padding == 0
  assert made.data.crop_padding == 1


def test_a_teachers_recipe_may_replace_the_schedule_but_not_misspell():
  made = config()
  cosine = {'kind': 'cosine', 'value': 0.1}
  made.teacher.recipe.optimizer = {'learning_rate': cosine}
  rate = config_lib.of_teacher(made).optimizer.learning_rate
  assert rate.to_dict() == cosine
  made.teacher.recipe.epoch = 3
  with pytest.raises(errors.UsageError, match='epoch'):
    config_lib.of_teacher(made)


def test_the_same_configuration_may_claim_its_folder_again(tmp_path):
  folder = run_dir.Folder(tmp_path / 'run')
  claim(folder, config())
  claim(folder, config())
  assert folder.read('config.json')['epochs'] == config().epochs


def test_another_configuration_is_refused_with_the_difference(tmp_path):
  folder = run_dir.Folder(tmp_path / 'run')
  claim(folder, config())
  with pytest.raises(errors.UsageError, match=r'config\.batch_size: .* 7 here'):
    claim(folder, config(batch_size=7))
  assert folder.read('config.json')['batch_size'] != 7


def test_a_check_refuses_as_a_claim_does_and_writes_nothing(tmp_path):
  folder = run_dir.Folder(tmp_path / 'run')
  facts = INFO.identity()
  folder.check(config_lib.plain(config()), facts)
  assert not folder.path.exists()
  claim(folder, config(epochs=4))
  with pytest.raises(errors.UsageError, match=r'config\.batch_size: .* 7 here'):
    folder.check(config_lib.plain(config(epochs=4, batch_size=7)), facts)
  folder.check(config_lib.plain(config(epochs=6)), facts)
  assert folder.read('config.json')['epochs'] == 4


def test_epochs_may_grow_but_not_shrink(tmp_path):
  folder = run_dir.Folder(tmp_path / 'run')
  claim(folder, config(epochs=4))
  claim(folder, config(epochs=6))
  with pytest.raises(errors.UsageError, match='only grow'):
    claim(folder, config(epochs=5))


def test_epochs_may_not_grow_under_a_schedule_that_depends_on_them(tmp_path):
  cosine = {'optimizer': {'learning_rate': {'kind': 'cosine', 'value': 0.1}}}
  folder = run_dir.Folder(tmp_path / 'run')
  claim(folder, config(epochs=4, **cosine))
  with pytest.raises(errors.UsageError, match='cosine'):
    claim(folder, config(epochs=6, **cosine))


def test_a_folder_with_other_files_is_refused(tmp_path):
  (tmp_path / 'thesis.tex').write_text('x')
  with pytest.raises(errors.UsageError, match='holds files but no run'):
    claim(run_dir.Folder(tmp_path), config())


def test_a_live_folder_is_refused(tmp_path):
  folder = run_dir.Folder(tmp_path / 'run')
  other = run_dir.Folder(tmp_path / 'run')
  with (
    folder.lock(wait=False),
    pytest.raises(errors.UsageError, match='another run is live'),
    other.lock(wait=False),
  ):
    pass
  with folder.lock(wait=False):  # free again
    pass


def test_only_what_determines_the_result_enters_the_digest():
  digest = config_lib.digest(config())
  assert digest == config_lib.digest(config(checkpoint_every=0.5))
  assert digest == config_lib.digest(config(baseline='off'))
  assert digest != config_lib.digest(config(seed=1))
  assert digest != config_lib.digest(config(weights={'ce': 0.5}))


def test_the_teachers_cache_depends_on_its_recipe_and_not_on_the_student():
  def key(**changes):
    made = config_lib.of_teacher(config(**changes))
    return teacher.cache_folder(made, INFO, 'teacher').path.name

  assert key() == key(seed=5, epochs=3, method='kd')
  assert key() == key(student={'name': 'resnet14'})
  assert key() != key(teacher={'recipe': {'epochs': 3}})
  assert key() != key(data={'train_size': 200})


def test_records_after_a_step_are_dropped_and_a_torn_line_too(tmp_path):
  records = run_dir.Records(run_dir.Folder(tmp_path))
  for step in (1, 2, 3):
    records.append({'step': step, 'x': step / 2})
  with (tmp_path / 'metrics.jsonl').open('a') as file:
    file.write('{"step": 4, "x"')
  assert [r['step'] for r in records.truncate(2)] == [1, 2]
  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  assert [json.loads(line)['step'] for line in lines] == [1, 2]


def test_the_first_bad_step_is_named_with_the_loss_before_what_follows():
  nan = float('nan')
  values = {
    'total': [1.0, nan, nan],
    'loss/ce': [1.0, 2.0, 3.0],
    'loss/kd': [1.0, nan, nan],
    'grad_norm': [1.0, nan, nan],
  }
  import numpy as np

  arrays = {name: np.array(value) for name, value in values.items()}
  at, name, _ = logging.first_bad(arrays, 40)
  assert (at, name) == (41, 'loss/kd')
  assert logging.first_bad({'total': np.ones(3)}, 0) is None
