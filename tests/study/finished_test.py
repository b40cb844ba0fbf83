"""Which runs are found, and what is said of those that are left out."""

import json

import jax
import pytest

from kd_jax import errors
from kd_jax.cli import app, train
from kd_jax.study import finished
from tests.study import made


def test_a_parent_folder_gives_all_finished_runs_below_it(tmp_path):
  made.several(tmp_path / 'sweep/a', {10: 92.0, 9: 91.0})
  made.run(tmp_path / 'b', None, seed=1)
  made.run(tmp_path / 'c', None, seed=2)
  (tmp_path / 'c/metrics.jsonl').unlink()
  (tmp_path / 'c/config.json').write_text('{"method":')
  made.run(tmp_path / 'd', 90.0, seed=3)
  config = json.loads((tmp_path / 'd/config.json').read_text())
  del config['teacher']['recipe']
  (tmp_path / 'd/config.json').write_text(json.dumps(config))
  (tmp_path / 'notes').mkdir()
  (tmp_path / 'notes/config.json').write_text('{"model": "another tool"}')
  (tmp_path / 'loop').symlink_to(tmp_path)
  found = finished.find([str(tmp_path), str(tmp_path / 'sweep')])
  assert [run.seed for run in found.runs] == [9, 10]
  unfinished, damaged, older = found.left_out
  assert "d: damaged: KeyError: 'config.teacher.recipe'" in older
  assert unfinished.endswith('b: unfinished, at epoch 3 of 60')
  assert 'c: config.json is damaged: Expecting value' in damaged


@pytest.mark.parametrize('count', [1, 3, 25, 26, 300])
def test_the_figures_of_any_number_of_seeds_are_found_in_a_folder(
  tmp_path, count
):
  name = train._name_of_summary(range(100, 100 + count))
  made.seeds_file(tmp_path / name, dict.fromkeys(range(count), 90.0))
  made.run(tmp_path / 'run', 90.0, seed=1000)
  found = finished.find([str(tmp_path)])
  assert len(found.runs) == count + 1


def test_jax_is_not_started(tmp_path, monkeypatch):
  """It would take memory of a GPU on which a run is under way."""

  def started(*_):
    raise AssertionError

  for name in ('process_count', 'process_index', 'devices'):
    monkeypatch.setattr(jax, name, started)
  made.run(tmp_path / 'kd', 90.0, alone=89.0)
  made.run(tmp_path / 'fpd', None, 'fpd')
  assert app.main(['compare', str(tmp_path)]) == 0


def test_a_run_that_goes_on_with_more_epochs_is_not_finished(tmp_path):
  made.run(tmp_path / 'run', 90.0)
  config = json.loads((tmp_path / 'run/config.json').read_text())
  (tmp_path / 'run/config.json').write_text(
    json.dumps({**config, 'epochs': 70})
  )
  with pytest.raises(errors.UsageError, match='at epoch 0 of 70'):
    finished.find([str(tmp_path)])


def test_a_student_alone_of_fewer_epochs_is_not_taken(tmp_path):
  made.run(tmp_path / 'run', 90.0, alone=80.0)
  assert finished.find([str(tmp_path)]).runs[0].alone == 80.0
  known = {'top1': 80.0, 'epochs': 10}
  (tmp_path / 'run/alone.json').write_text(json.dumps(known))
  assert finished.find([str(tmp_path)]).runs[0].alone is None


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('nowhere', 'there is no'),
    ('empty', 'holds no run: give'),
    ('unfinished', 'holds no finished run: '),
    ('notes.json', 'is not what kd_jax.main --seeds writes'),
  ],
)
def test_what_is_no_finished_run_is_refused_in_one_line(
  tmp_path, capsys, name, message
):
  (tmp_path / 'empty').mkdir()
  (tmp_path / 'notes.json').write_text('{"seeds": [0], "top1": [1]}')
  made.run(tmp_path / 'unfinished', None)
  assert app.main(['compare', str(tmp_path / name)]) == 2
  said = capsys.readouterr()
  assert message in said.err
  assert said.err.count('\n') == 1
  assert not said.out
