"""Points of the curves between the records of epochs."""

import json

import numpy as np
import pytest
import tensorboardX

from kd_jax.runtime import logging, run_dir
from kd_jax.training import loop, points, run
from tests.training import recovery_test
from tests.training.end_to_end_test import leaves


def scalars(*total):
  return {
    'total': np.array(total, np.float32),
    'learning_rate': np.arange(1, len(total) + 1, dtype=np.float32),
  }


def test_a_point_has_the_means_of_the_steps_since_the_last_one():
  made = points.Points(3, batch_size=10)
  assert made.add(0, scalars(1.0), 0.0) == []
  assert made.add(1, scalars(2.0), 1.0) == []
  (point,) = made.add(2, scalars(6.0), 2.0)
  assert point.step == 3
  assert point.values == {
    'learning_rate': 1.0,
    'images_per_s': 10.0,  # a step in a second, after the first two
    'step/total': 3.0,
  }


def test_a_dispatch_of_many_steps_gives_every_point_in_it():
  made = points.Points(2, batch_size=10)
  made.add(0, scalars(7.0), 0.0)
  found = made.add(1, scalars(1, 2, 4, 6), 4.0)  # of steps 2 to 5
  assert [point.step for point in found] == [2, 4]
  assert [p.values['step/total'] for p in found] == [4.0, 3.0]
  assert [p.values['learning_rate'] for p in found] == [1.0, 3.0]
  assert not any('images_per_s' in p.values for p in found)
  found = made.add(5, scalars(8.0, 0.0, 1.0), 5.5)
  assert [p.values['step/total'] for p in found] == [7.0, 0.5]
  assert [p.values['images_per_s'] for p in found] == [20.0, 20.0]


def test_no_points_are_made_where_every_is_0():
  made = points.Points(0, batch_size=10)
  assert made.add(0, scalars(*range(100)), 1.0) == []


def test_a_slow_run_does_not_show_0_images_a_second(monkeypatch):
  now = [0.0]
  monkeypatch.setattr(logging.time, 'monotonic', lambda: now[0])
  speed = logging.Speed()
  assert speed.text(8) == ''
  for now[0] in (0.0, 0.0, 10.0):
    speed.add(1, now[0])
  assert speed.text(8) == '0.1 images/s, ETA 1 min 20 s'
  assert speed.text(0) == '0.1 images/s'
  now[0] = 10.01
  speed.add(10**4, now[0])
  assert speed.text(0) == '999 images/s'


@pytest.fixture
def written(monkeypatch):
  """The (name, step) of every scalar that TensorBoard gets."""
  found = []
  monkeypatch.setattr(
    tensorboardX.SummaryWriter,
    'add_scalar',
    lambda _, name, value, step: found.append((name, step)),
  )
  return found


def test_a_run_logs_points_records_and_where_both_meet_one_line(
  tmp_path, written
):
  config = recovery_test.config_of()  # 2 epochs of 4 steps
  config.log_every = 2
  config.loggers = ('tensorboard', 'tests.runtime.own_writer:Own')
  place = run_dir.Folder(tmp_path)
  result = run.train(config, place)
  lines = [
    json.loads(line)
    for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()
  ]
  assert [line['step'] for line in lines] == [2, 4, 6, 8]
  assert [line['epoch'] for line in lines] == [0.5, 1.0, 1.5, 2.0]
  for line in lines:
    assert line['learning_rate'] == pytest.approx(0.05)
    assert 0 <= line['step/top1'] <= 100
  assert ['images_per_s' in line for line in lines] == [
    False, True, True, True
  ]  # fmt: skip
  assert ['train/top1' in line for line in lines] == [False, True] * 2
  mean = (lines[0]['step/total'] + lines[1]['step/total']) / 2
  assert lines[1]['train/total'] == pytest.approx(mean, rel=1e-5)
  assert [r['step'] for r in run_dir.Records(place).read()] == [4, 8]
  assert {step for name, step in written if name == 'step/total'} == {
    2,
    4,
    6,
    8,
  }
  assert {step for name, step in written if name == 'train/total'} == {4, 8}

  # A writer of the user's own gets what metrics.jsonl gets, and more.
  def own(name):
    return [json.loads(x) for x in (tmp_path / name).read_text().splitlines()]

  assert own('own.jsonl') == lines
  assert own('own.closed') == [result]
  told = json.loads((tmp_path / 'own.json').read_text())
  assert (told['step'], told['past'], told['method']) == (0, [], 'tfd')
  assert told['config']['epochs'] == 2

  # A run that goes on from step 4 keeps the points up to there.
  (tmp_path / 'result.json').unlink()
  recovery_test.damage(tmp_path / 'checkpoints/8')
  run.train(config, place)
  again = run_dir.Records(place).read(points=True)
  assert [line['step'] for line in again] == [2, 4, 6, 8]
  assert again[1]['wall_s'] == lines[1]['wall_s']
  assert again[3]['step/total'] == lines[3]['step/total']
  assert own('own.jsonl') == again
  told = json.loads((tmp_path / 'own.json').read_text())
  assert (told['step'], told['past']) == (4, [2, 4])


def test_the_screen_has_the_first_and_the_last_epoch_and_the_log_has_all(
  tmp_path, capsys
):
  config = recovery_test.config_of()
  config.epochs = 4
  run.train(config, run_dir.Folder(tmp_path))

  def epochs(text):
    return [
      x.split('epoch ')[1][:3] for x in text.splitlines() if 'epoch ' in x
    ]

  assert epochs(capsys.readouterr().out) == ['1/4', '4/4']
  log = (tmp_path / 'log.txt').read_text()
  assert epochs(log) == ['1/4', '2/4', '3/4', '4/4']


def test_checkpoints_wait_and_the_last_step_is_saved_all_the_same(
  tmp_path, monkeypatch
):
  saved, save = [], loop.Loop._save
  monkeypatch.setattr(
    loop.Loop, '_save', lambda self: (saved.append(self.step), save(self))
  )
  arrays = []
  for seconds in (0.0, 1e6):
    config = recovery_test.config_of()
    config.checkpoint_seconds = seconds
    run.train(config, run_dir.Folder(tmp_path / str(seconds)))
    step, found = leaves(tmp_path / str(seconds) / 'checkpoints')
    assert step == 8
    arrays.append(found)
  assert saved == [4, 8, 8]
  for name, value in arrays[0].items():
    np.testing.assert_array_equal(arrays[1][name], value, err_msg=name)


def test_a_checkpoint_that_waits_is_saved_where_the_time_has_passed(
  tmp_path, monkeypatch
):
  saved, save = [], loop.Loop._save
  monkeypatch.setattr(
    loop.Loop, '_save', lambda self: (saved.append(self.step), save(self))
  )
  now = [0.0]
  record = loop.Loop._record

  def passing(self, *args):
    now[0] += 6.0  # an epoch
    record(self, *args)

  monkeypatch.setattr(loop.Loop, '_record', passing)
  monkeypatch.setattr(loop.time, 'monotonic', lambda: now[0])
  config = recovery_test.config_of()
  config.epochs, config.checkpoint_every = 5, 2.0
  config.checkpoint_seconds = 15.0
  run.train(config, run_dir.Folder(tmp_path))
  # After two epochs it is due, after three 15 s have passed.
  assert saved == [12, 20]
