"""Trains what is missing of some cells, within a time if one is set."""

from collections.abc import Callable, Sequence
import pathlib
import time
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from kd_jax import config as config_lib
from kd_jax import errors
from kd_jax.distill import build
from kd_jax.reproduce import store
from kd_jax.reproduce.cells import Cell, other_data
from kd_jax.reproduce.pace import Budget, Pace
from kd_jax.runtime import logging, run_dir
from kd_jax.training import run as run_lib


class Task(NamedTuple):
  """A cell and a seed."""

  cell: Cell
  seed: int

  def __str__(self) -> str:
    """Returns the task as lines name it."""
    return f'{self.cell.recipe} seed {self.seed}'


class Outcome(NamedTuple):
  """What became of the tasks.

  Attributes:
    done: The tasks whose results are written.
    unfinished: The tasks that go on with the same command.
    failed: The tasks that ended with an error.
  """

  done: list[Task]
  unfinished: list[Task]
  failed: list[Task]


class Places(NamedTuple):
  """Where things are.

  Attributes:
    results: The folder that takes the results.
    work: The folder of the runs, which go on from it.
    data: The data set to train on; '' is the recipe's.
  """

  results: pathlib.Path
  work: pathlib.Path
  data: str = ''

  def run_of(self, task: Task) -> pathlib.Path:
    """Returns the folder of a task's run."""
    return self.work / task.cell.name / f'seed-{task.seed}'


def configuration(task: Task, data: str = '') -> ConfigDict:
  """Returns the configuration of a task.

  Args:
    task: The task.
    data: The data set to train on; '' is the recipe's.
  """
  config = config_lib.load(task.cell.recipe)
  config.seed = task.seed
  config.baseline = 'off'  # the student alone is a cell of its own
  if data:
    config.data.name = data
  return config


def check_data(task: Task, data: str) -> None:
  """Raises UsageError if data from elsewhere cannot be those of a task's cell.

  Args:
    task: The task.
    data: The data set's name, as in `config.data.name`.
  """
  info = build.open_source(configuration(task, data)).info
  if lines := other_data(task.cell, data, info.identity()):
    raise errors.UsageError(f'--data={data}: {"; ".join(lines)}')


def outdated(
  cells: Sequence[Cell], results: pathlib.Path
) -> dict[Task, list[str]]:
  """Returns what has changed in recipes since results of theirs were made.

  Where the data came from does not count, nor a result whose configuration was
  not kept.

  Args:
    cells: The cells.
    results: The folder of results.
  """
  found = {}
  for cell in cells:
    for seed, held in store.stand(results, cell).done.items():
      if not (there := held.get('config')):
        continue
      try:
        here = config_lib.plain(configuration(Task(cell, seed)))
      except errors.UsageError as error:
        found[Task(cell, seed)] = [str(error)]
        continue
      there, here = (
        config_lib.determining({**x, 'data': {**x['data'], 'name': cell.data}})
        for x in (there, here)
      )
      if lines := config_lib.difference(there, here):
        found[Task(cell, seed)] = lines
  return found


def add(cell: Cell, run: pathlib.Path, results: pathlib.Path) -> Task:
  """Writes the result of a run that was trained in another way.

  Args:
    cell: The cell whose recipe was trained.
    run: The run's folder, which is finished.
    results: The folder that takes the file.

  Returns:
    The task that is done now.

  Raises:
    UsageError: The folder holds no finished run, or one of something else.
  """
  there = run_dir.Folder(run).read('config.json')
  opened: dict[str, Any] = {}
  if there is not None:
    opened = there.pop('data_facts', None) or {}
    there = config_lib.determining(there)
  held = store.kept(cell, run, there)
  task = Task(cell, held['seed'])
  want = configuration(task)
  facts = {'method': want.method, 'network': want.student.name}
  found = {key: held['result'].get(key) for key in facts}
  lines = config_lib.difference(found, facts, 'result')
  if there is None:
    held['notes'].append('the configuration of this run was not kept')
  else:
    here = config_lib.determining(config_lib.plain(want))
    for values in (there, here):
      values['data'].pop('name')
    lines += config_lib.difference(there, here)
  lines += other_data(cell, held['result'].get('data'), opened)
  if lines:
    raise errors.UsageError(f'{run} is no run of {task}: {"; ".join(lines)}')
  store.write(results, cell, held)
  return task


class Runner:
  """Trains tasks one after the other.

  With a time limit, a task that would take longer than what is left is set
  aside for the tasks behind it. The tasks that were set aside then get the
  time that remains, in their order.
  """

  def __init__(
    self,
    places: Places,
    budget: Budget,
    should_stop: Callable[[], bool],
    say: Callable[[str], None],
  ):
    """Stores the arguments.

    Args:
      places: Where things are.
      budget: The time that all tasks may take.
      should_stop: Returns whether to save and stop.
      say: Called with a line of text for the user.
    """
    self._places, self._budget = places, budget
    self._stop_asked, self._say = should_stop, say
    # The longest times yet from a task's start to its first dispatch, and from
    # there to the second: nothing is begun with less time left.
    self._starting_s = self._compiling_s = 0.0
    self._too_long = False

  def run(self, tasks: Sequence[Task]) -> Outcome:
    """Trains the tasks that have no result yet.

    Args:
      tasks: The tasks, the most important first.
    """
    outcome = Outcome([], [], [])
    waiting = list(tasks)
    aside: list[Task] = []
    while waiting and not self._over():
      task = waiting.pop(0)
      if self._try(task, outcome, may_set_aside=bool(waiting)):
        continue
      (aside if self._too_long else outcome.unfinished).append(task)
    while aside and not self._over():
      task = aside.pop(0)
      if not self._try(task, outcome, may_set_aside=False):
        outcome.unfinished.append(task)
    outcome.unfinished.extend([*aside, *waiting])
    return outcome

  def _over(self) -> bool:
    least = self._starting_s + self._compiling_s
    return self._stop_asked() or self._budget.left_s() <= least

  def _try(self, task: Task, outcome: Outcome, *, may_set_aside: bool) -> bool:
    """Trains a task, and returns whether it needs no more time."""
    self._too_long = False
    try:
      self._train(task, may_set_aside)
    except run_lib.Interrupted as stopped:
      self._say(f'{task}: {stopped}')
      return False
    except (errors.RunError, errors.UsageError) as error:
      self._say(f'{task} failed: {error}')
      outcome.failed.append(task)
    else:
      outcome.done.append(task)
    return True

  def _train(self, task: Task, may_set_aside: bool) -> None:
    places, pace = self._places, Pace()
    config = configuration(task, places.data)
    folder = run_dir.Folder(places.run_of(task))
    began, left_s = time.monotonic(), self._budget.left_s
    first: dict[str, float] = {}  # when a network was to start, by its folder
    told: set[str] = set()

    def observe(progress: run_lib.Progress) -> None:
      here, now = str(progress.folder), time.monotonic()
      if here not in first:
        if not first:
          self._starting_s = max(self._starting_s, now - began)
        first[here] = now
        if left_s() <= self._compiling_s:
          raise run_lib.Interrupted(
            f'no time is left to start at step {progress.step} in {here}; the '
            'same command goes on from there'
          )
      pace.see(progress)
      if pace.intervals == 1:
        self._compiling_s = max(self._compiling_s, now - first[here])
      rest = pace.rest_s()
      if rest is None or here in told:
        return
      told.add(here)
      network = 'run' if progress.folder == folder.path else 'teacher'
      text = f'{task}: the {network} takes about {logging.duration(rest)} more'
      if rest > left_s():
        text += f', and {logging.duration(max(0.0, left_s()))} are left'
        self._too_long = may_set_aside
      self._say(f'{text}: set aside' if self._too_long else text)

    def stop() -> bool:
      late = self._budget.left_s() <= 0
      return self._stop_asked() or late or self._too_long

    run_lib.train(config, folder, str(task), should_stop=stop, observe=observe)
    plain = config_lib.determining(config_lib.plain(config))
    store.write(
      places.results,
      task.cell,
      store.kept(task.cell, pathlib.Path(folder.path), plain),
    )
    self._say(f'written: {store.path_of(places.results, *task)}')
