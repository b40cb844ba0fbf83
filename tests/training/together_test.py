"""Runs that train together: who waits for whom, and how they end."""

import json
import shutil
import signal
import threading

import numpy as np
import pytest

from kd_jax import errors
from kd_jax.training import together
from tests.training import end_to_end_test
from tests.training.end_to_end_test import finish, leaves, signalled

NAMES = ('a', 'b', 'c')


class Log:
  """What was dispatched: the keys and the values of each group."""

  def __init__(self):
    self.groups = []

  def run(self, name, member, first=0, last=3, stage=0, fails_at=-1):
    """Takes the steps from `first` to `last`, and returns the last answer."""
    member.stage, answer = stage, None
    for step in range(first, last):
      if step == fails_at:
        raise errors.RunError(f'{name} is wrong')
      answer = member.meet((stage, step), f'{name}{step}', self.work)
    return answer

  def work(self, values):
    self.groups.append(' '.join(values))
    return [value.upper() for value in values]


def meeting(log, **how):
  """A meeting of three runs, of which some are as `how` says."""

  def task(name, member):
    return log.run(name, member, **how.get(name, {}))

  return together.Meeting(dict.fromkeys(NAMES, task))


def test_runs_that_stand_alike_dispatch_together():
  log = Log()
  assert meeting(log).run() == ['A2', 'B2', 'C2']
  assert log.groups == ['a0 b0 c0', 'a1 b1 c1', 'a2 b2 c2']


def test_those_behind_go_on_alone_until_all_are_level():
  log = Log()
  meeting(log, a={'first': 2}, c={'first': 1}).run()
  assert log.groups == ['b0', 'b1 c1', 'a2 b2 c2']


def test_a_student_alone_waits_for_runs_that_have_not_come_so_far():
  log = Log()
  meeting(log, a={'stage': 1, 'last': 1}).run()
  assert log.groups == ['b0 c0', 'b1 c1', 'b2 c2', 'a0']


def test_a_run_that_is_finished_leaves_the_others():
  log = Log()
  assert meeting(log, b={'last': 0}).run() == ['A2', None, 'C2']
  assert log.groups == ['a0 c0', 'a1 c1', 'a2 c2']


def test_a_run_that_fails_leaves_the_others_whose_end_its_error_is(capsys):
  log = Log()
  with pytest.raises(errors.RunError, match='b is wrong'):
    meeting(log, b={'fails_at': 1}).run()
  assert log.groups == ['a0 b0 c0', 'a1 c1', 'a2 c2']
  assert 'b has failed: b is wrong; the others go on' in capsys.readouterr().out


def test_a_run_that_cannot_start_ends_all_before_a_step(capsys):
  log, ended = Log(), []

  def task(name, member):
    try:
      return log.run(name, member, fails_at=0 if name == 'b' else -1)
    finally:
      ended.append(name)

  with pytest.raises(errors.RunError, match='b is wrong'):
    together.Meeting(dict.fromkeys(NAMES, task)).run()
  assert log.groups == []
  assert ended == ['b', 'a']  # and c did not begin
  assert capsys.readouterr().out == ''


def test_work_that_fails_fails_in_each_run_of_the_group():
  failed = []

  def fail(values):
    raise errors.RunError('no memory')

  def task(name, member):
    try:
      member.meet((0,), name, fail)
    except errors.RunError:
      failed.append(name)
      raise

  with pytest.raises(errors.RunError, match='no memory'):
    together.Meeting(dict.fromkeys(NAMES, task)).run()
  assert failed == [*NAMES]


def test_all_runs_are_told_to_stop_at_the_same_step():
  asks, told = iter((False, True, True)), []

  def task(name, member):
    for step in range(9):
      stop = member.asked(lambda: next(asks), step)
      told.append((name, step, stop))
      member.meet((step,), name, lambda values: values)
      if stop:
        return

  together.Meeting(dict.fromkeys(NAMES, task)).run()
  assert told == [(n, step, bool(step)) for step in range(2) for n in NAMES]


def test_one_run_works_at_a_time():
  busy, most = [], []

  def task(name, member):
    for step in range(20):
      busy.append(name)
      most.append(len(busy))
      for _ in range(100):
        threading.Event().wait(0)  # gives way to other threads
      busy.remove(name)
      member.meet((step,), name, lambda values: values)

  together.Meeting(dict.fromkeys(NAMES, task)).run()
  assert {*most} == {1}


def test_no_thread_is_left_where_the_meeting_itself_breaks(monkeypatch):
  log = Log()
  runs = meeting(log, b={'fails_at': 1})
  monkeypatch.setattr(runs, '_say', lambda member: 1 / 0)
  before = threading.active_count()
  with pytest.raises(ZeroDivisionError):
    runs.run()
  assert log.groups == ['a0 b0 c0']
  assert threading.active_count() == before


def test_arrays_of_the_same_content_are_one():
  def task(name, member):
    last = 3.0 if name == 'c' else 2.0
    return member.shared({'x': np.array([1.0, last]), 'y': np.ones(2, int)})

  a, b, c = together.Meeting(dict.fromkeys(NAMES, task)).run()
  assert a['x'] is b['x']
  assert a['x'] is not c['x']
  assert a['y'] is b['y'] is c['y']


SEEDS = (
  '--seeds=0,1,2',
  '--config.mesh.data=1',
  '--config.epochs=4',
  '--config.checkpoint_every=1.0',
)


def begin(folder, *more, **options):
  """Starts the three seeds of a run whose folders are `folder/run/seed*`."""
  return end_to_end_test.begin(folder, *SEEDS, *more, **options)


@pytest.fixture(scope='module')
def apart(tmp_path_factory):
  """The seeds, trained one after the other."""
  folder = tmp_path_factory.mktemp('apart')
  finish(begin(folder))
  return folder


def read(folder, seed):
  """The records of a seed, and its result."""
  place = folder / f'run/seed{seed}'
  lines = (place / 'metrics.jsonl').read_text().splitlines()
  records = [json.loads(line) for line in lines]
  return records, json.loads((place / 'result.json').read_text())


# Rounding of grouped convolutions: at step 10 the largest difference of a mean
# was 2e-5 of it. Later a unit of a ReLU may be 0 in one run and 1e-9 in the
# other, from where both go their ways: up to 1% of the gradient's norm.
BOUNDS = {5: 1e-4, 10: 1e-4, 15: 0.1, 20: 0.1}


def assert_alike(folder, apart):
  for seed in range(3):
    (records, result), (wanted, want) = read(folder, seed), read(apart, seed)
    assert [r['step'] for r in records] == [r['step'] for r in wanted]
    for got, expected in zip(records, wanted, strict=True):
      bound = BOUNDS[got['step']]
      for name in ('train/total', 'train/loss/kd', 'train/grad_norm'):
        np.testing.assert_allclose(got[name], expected[name], rtol=bound)
    assert result['steps'] == want['steps'] == 20
    assert abs(result['top1'] - want['top1']) < 3
    assert leaves(folder / f'run/seed{seed}/student')[0] == 20


@pytest.mark.drill
def test_seeds_together_equal_seeds_apart_also_after_a_kill(apart, tmp_path):
  more = signalled(tmp_path, 'SIGKILL', 'run/dispatch', 40)
  finish(begin(tmp_path, '--together', **more), code=-signal.SIGKILL)
  # Seed 1 goes on from its last save but one.
  saved = tmp_path / 'run/seed1/checkpoints'
  shutil.rmtree(max(saved.glob('[0-9]*'), key=lambda x: int(x.name)))
  said = finish(begin(tmp_path, '--together'))
  steps = [x.split()[-1] for x in said.splitlines() if 'resuming' in x]
  assert len(steps) == 3
  assert len({*steps}) == 2
  assert_alike(tmp_path, apart)
  assert (tmp_path / 'run/seeds-0-1-2.json').exists()


@pytest.mark.drill
def test_seeds_together_are_saved_at_sigterm_and_go_on(apart, tmp_path):
  more = signalled(tmp_path, 'SIGTERM', 'run/dispatch', 40)
  said = finish(begin(tmp_path, '--together', **more), code=75)
  assert 'the same command goes on from there' in said
  steps = [leaves(tmp_path / f'run/seed{i}/checkpoints')[0] for i in range(3)]
  assert len({*steps}) == 1
  finish(begin(tmp_path, '--together'))
  assert_alike(tmp_path, apart)
