"""Which runs get the time, by runs and clocks that are not real."""

import itertools
import json
import pathlib

import pytest

from kd_jax import errors
from kd_jax.reproduce import cells, pace, runner, store
from kd_jax.training import run as run_lib

CELL = next(cell for cell in cells.load() if cell.recipe == 'kd:digits')
STEPS = 100


class Clock:
  """Seconds that pass only when they are told to."""

  now = 0.0

  def __call__(self):
    return self.now


@pytest.fixture
def clock(monkeypatch):
  made = Clock()
  monkeypatch.setattr(runner.time, 'monotonic', made)
  monkeypatch.setattr(runner, 'Pace', lambda: pace.Pace(clock=made))
  return made


def training(clock, step_s, compile_s=10.0):
  """A stand-in of `train`; `step_s` has seconds of a step by seed."""
  done = {}

  def train(config, folder, label, *, should_stop, observe):
    folder.path.mkdir(parents=True, exist_ok=True)
    seed = config.seed
    if step_s[seed] is None:
      raise errors.RunError('a loss is nan')
    for step in itertools.count(done.get(seed, 0)):
      done[seed] = step
      if step == STEPS:
        break
      observe(run_lib.Progress(folder.path, step, STEPS))
      if should_stop():
        raise run_lib.Interrupted(f'saved at step {step}')
      first = step == 0 or folder.path not in train.compiled
      train.compiled.add(folder.path)
      clock.now += step_s[seed] + (compile_s if first else 0.0)
    result = {
      'seed': seed, 'steps': STEPS, 'epochs': 1, 'data': 'digits', 'top1': 1.0
    }  # fmt: skip
    (folder.path / 'result.json').write_text(json.dumps(result))

  train.compiled = set()
  train.done = done
  return train


def run(monkeypatch, tmp_path, clock, step_s, minutes, stop=lambda: False):
  """Runs a task for each seed; returns seeds done, unfinished and failed."""
  said = []
  train = training(clock, step_s)
  monkeypatch.setattr(run_lib, 'train', train)
  places = runner.Places(tmp_path / 'results', tmp_path / 'work')
  tasks = [runner.Task(CELL, seed) for seed in step_s]
  budget = pace.Budget(minutes, clock)
  made = runner.Runner(places, budget, stop, said.append)
  outcome = made.run(tasks)
  seeds = [[task.seed for task in each] for each in outcome]
  assert sorted(store.stand(places.results, CELL).done) == sorted(seeds[0])
  return (*seeds, train.done, '\n'.join(said))


def test_without_a_limit_all_are_trained(monkeypatch, tmp_path, clock):
  step_s = {0: 1.0, 1: 100.0}
  done, unfinished, failed, _, _ = run(
    monkeypatch, tmp_path, clock, step_s, None
  )
  assert (done, unfinished, failed) == ([0, 1], [], [])


def test_what_does_not_fit_gives_way_and_gets_the_time_that_is_left(
  monkeypatch, tmp_path, clock
):
  # 10 minutes are 570 s and 30 s for saving; seed 0 would take 1000 s.
  step_s = {0: 10.0, 1: 1.0, 2: 2.0}
  done, unfinished, _, steps, said = run(
    monkeypatch, tmp_path, clock, step_s, 10
  )
  assert (done, unfinished) == ([1, 2], [0])
  assert 'seed 0: the run takes about' in said
  assert 'set aside' in said
  assert 7 < steps[0] < 30  # it went on after the others
  assert 550 < clock.now <= 600


def test_it_stops_in_time(monkeypatch, tmp_path, clock):
  # Of 153 s one takes 110: the others get the rest.
  step_s = {0: 1.0, 1: 1.0, 2: 1.0}
  done, unfinished, _, steps, _ = run(monkeypatch, tmp_path, clock, step_s, 3)
  assert done == [0]
  assert sorted(unfinished) == [1, 2]
  assert 140 < clock.now <= 180
  assert 0 < steps[2] < STEPS


def test_it_begins_nothing_that_would_only_compile(
  monkeypatch, tmp_path, clock
):
  # 120.36 s are just enough to try the first; compiling takes 11 s.
  step_s = {0: 1.0, 1: 1.0}
  done, unfinished, _, steps, _ = run(
    monkeypatch, tmp_path, clock, step_s, 2.36
  )
  assert (done, unfinished) == ([0], [1])
  assert [*steps] == [0]


def test_a_student_is_not_begun_that_would_only_compile(
  monkeypatch, tmp_path, clock
):
  def train(config, folder, label, *, should_stop, observe):
    for place in (tmp_path / 'teacher', folder.path):
      for step in range(STEPS):
        observe(run_lib.Progress(place, step, STEPS))
        clock.now += 1.0 if step else 20.0

  monkeypatch.setattr(run_lib, 'train', train)
  places = runner.Places(tmp_path / 'results', tmp_path / 'work')
  said = []
  # The teacher takes 119 s of 122: the student's first step alone takes 20.
  budget = pace.Budget(122 / 60 / 0.85, clock)
  made = runner.Runner(places, budget, lambda: False, said.append)
  task = runner.Task(CELL, 0)
  assert made.run([task]).unfinished == [task]
  assert clock.now == 119
  assert 'no time is left to start at step 0' in said[-1]


def test_a_failure_does_not_end_the_others(monkeypatch, tmp_path, clock):
  step_s = {0: None, 1: 1.0}
  done, unfinished, failed, _, said = run(
    monkeypatch, tmp_path, clock, step_s, 10
  )
  assert (done, unfinished, failed) == ([1], [], [0])
  assert 'seed 0 failed: a loss is nan' in said


def test_a_signal_ends_all(monkeypatch, tmp_path, clock):
  step_s = {0: 1.0, 1: 1.0}
  done, unfinished, _, steps, _ = run(
    monkeypatch, tmp_path, clock, step_s, None, stop=lambda: clock.now > 50
  )
  assert (done, unfinished) == ([], [0, 1])
  assert steps == {0: 41}


def test_an_estimate_leaves_compiling_and_evaluations_out():
  clock = Clock()
  one = pace.Pace(clock)
  student, teacher = pathlib.Path('run'), pathlib.Path('teacher')
  for step in range(0, 80, 10):
    assert one.rest_s() is None
    one.see(run_lib.Progress(teacher, step, 1000))
    clock.now += {0: 60.0, 10: 60.0, 40: 90.0}.get(step, 5.0)
  assert one.rest_s() == pytest.approx(1.1 * 930 * 0.5)
  one.see(run_lib.Progress(student, 0, 1000))
  assert one.rest_s() is None  # another network has another pace


def test_the_end_of_the_time_is_kept_for_saving():
  clock = Clock()
  assert pace.Budget(1, clock).left_s() == pytest.approx(51)
  assert pace.Budget(12, clock).left_s() == pytest.approx(690)
  assert pace.Budget(None, clock).left_s() == float('inf')
