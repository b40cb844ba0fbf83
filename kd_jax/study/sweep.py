"""Trains a grid of configurations with several seeds, and compares them."""

from collections.abc import Callable, Sequence
import functools
import json
from typing import Any, NamedTuple

from etils import epath
from ml_collections import ConfigDict

from kd_jax import config as config_lib
from kd_jax import errors, tasks
from kd_jax.config import roles
from kd_jax.distill import build
from kd_jax.runtime import distributed, run_dir
from kd_jax.study import compare, finished, grid, groups, trained
from kd_jax.training import run as run_lib
from kd_jax.training import start as start_lib
from kd_jax.training import teacher as teacher_lib

# Returns the configuration with overrides, such as '--config.weights.kd=0.5'.
Load = Callable[[Sequence[str]], ConfigDict]


class Cell(NamedTuple):
  """A configuration of the grid.

  Attributes:
    config: The configuration, with any seed.
    values: Its values of the grid's keys, as they are shown.
    name: The name of its folder.
  """

  config: ConfigDict
  values: dict[str, str]
  name: str

  def __str__(self) -> str:
    """Returns the cell as the command line writes it."""
    sets = (f'--set {key}={value}' for key, value in self.values.items())
    return ' '.join(sets) or 'the configuration'


class Task(NamedTuple):
  """A run of the sweep.

  Attributes:
    label: The label of its row in the table.
    config: Its configuration.
    folder: Its folder.
    epochs: The epochs of the whole run.
  """

  label: str
  config: ConfigDict
  folder: run_dir.Folder
  epochs: int

  def __str__(self) -> str:
    """Returns the task as lines name it."""
    return f'{self.label}, seed {self.config.seed}'


class Plan(NamedTuple):
  """A sweep that is checked and can be run.

  Attributes:
    tasks: The runs, in their order: all cells with a seed, then the next seed.
    groups: The rows of the table, without runs.
    reference: The label of the row that the others are compared with.
    folder: The sweep's folder.
  """

  tasks: list[Task]
  groups: list[groups.Group]
  reference: str
  folder: run_dir.Folder


def cells(load: Load, axes: Sequence[grid.Axis]) -> list[Cell]:
  """Returns the cells of a grid.

  Args:
    load: Returns the configuration with overrides.
    axes: The grid; without axes there is one cell.

  Raises:
    UsageError: A key or a value is wrong, or two cells are the same run.
  """
  found: dict[str, Cell] = {}
  names: set[str] = set()
  for written in grid.product(axes):
    overrides = [f'--config.{key}={value}' for key, value in written.items()]
    try:
      config = load(overrides)
    except errors.UsageError as error:
      sets = ' '.join(f'--set {key}={value}' for key, value in written.items())
      text = str(error)
      for override in overrides:
        text = text.removeprefix(f'flag {override}: ')
      raise errors.UsageError(f'{sets}: {text}' if sets else text) from error
    plain = config_lib.plain(config)
    values = {
      key: groups.text(
        functools.reduce(lambda v, k: v[k], key.split('.'), plain)
      )
      for key in written
    }
    digest = config_lib.digest(config)
    name = grid.folder(values)
    cell = Cell(config, values, f'{name}-{digest}' if name in names else name)
    if digest in found:
      raise errors.UsageError(
        f'{cell} is the same run as {found[digest]}: give each value once, and '
        'only keys that change the result'
      )
    found[digest] = cell
    names.add(cell.name)
  return list(found.values())


def plan(
  all_cells: Sequence[Cell],
  seeds: Sequence[int],
  workdir: epath.PathLike,
  reference: str | None = None,
) -> Plan:
  """Returns the runs of a sweep, after building each configuration once.

  Nothing is trained or written.

  Args:
    all_cells: The cells.
    seeds: The seeds of each cell.
    workdir: The sweep's folder, for a folder of each cell with one of each
      seed.
    reference: The label or the method of the row that the others are compared
      with; None is the first.

  Raises:
    UsageError: A configuration cannot run here, or a folder holds another run,
      or no row is the reference.
  """
  root = run_dir.Folder(workdir)
  if root.read('config.json') is not None:
    raise errors.UsageError(
      f'{root.path} holds a run; give a sweep a --workdir of its own'
    )
  rows = groups.named([_row(cell.config) for cell in all_cells])
  chosen = groups.chosen(rows, reference or rows[0].label).label
  seen: set[str] = set()
  epochs, facts = {}, {}
  for cell in all_cells:
    try:
      parts = distributed.together(functools.partial(build.build, cell.config))
      _check_teachers(cell.config, parts, root, seen)
      start_lib.check(cell.config, parts, root)
    except errors.UsageError as error:
      raise errors.UsageError(f'{cell}: {error}') from error
    epochs[cell.name] = parts.epochs
    facts[cell.name] = parts.source.info.identity()
  tasks = []
  for seed in seeds:
    for cell, row in zip(all_cells, rows, strict=True):
      config = cell.config.copy_and_resolve_references()
      config.seed = seed
      config_lib.check_values(config)
      folder = run_dir.Folder(root.path / cell.name / f'seed{seed}')
      folder.check(config_lib.plain(config), facts[cell.name])
      tasks.append(Task(row.label, config, folder, epochs[cell.name]))
  return Plan(tasks, rows, chosen, root)


def _row(config: ConfigDict) -> groups.Group:
  """Returns the row of a configuration, without a label and without runs."""
  kept = config_lib.determining(config_lib.plain(config))
  kept.pop('seed')
  return groups.Group('', (), kept, None, {}, {})


def _check_teachers(
  config: ConfigDict,
  parts: build.Parts,
  root: run_dir.Folder,
  seen: set[str],
) -> None:
  """Checks the teachers, if no cell before has the same.

  Args:
    config: The configuration.
    parts: Its parts.
    root: A folder that holds no teacher.
    seen: The teachers that are checked already; these are added.
  """
  recipes = set()
  for name in parts.exp.teachers:
    taught = roles.with_teacher(config, name)
    with roles.naming(config, name):
      recipe = config_lib.of_teacher(taught)
    text = [config_lib.plain(recipe), config_lib.plain(taught)['teacher']]
    recipes.add(json.dumps(text))
  if not recipes <= seen:
    teacher_lib.check(config, parts, root)
    seen |= recipes


def run(
  planned: Plan,
  *,
  should_stop: Callable[[], bool] = lambda: False,
  say: Callable[[str], None] = distributed.say,
) -> dict[str, str]:
  """Trains what is not finished, and returns the reasons of runs that failed.

  Args:
    planned: The sweep.
    should_stop: Returns whether to save and stop.
    say: Called with a line of text for the user.

  Returns:
    For each run that failed its name and the reason.

  Raises:
    Interrupted: `should_stop` said so; the same sweep goes on.
  """
  failed: dict[str, str] = {}
  count = len(planned.tasks)
  for i, task in enumerate(planned.tasks, 1):
    if any(distributed.gather(bool(should_stop()))):
      raise run_lib.Interrupted(
        f'stopped before run {i} of {count}; the same command goes on with it'
      )
    try:
      _train(task, f'run {i} of {count}', should_stop, say)
    except run_lib.Interrupted as stopped:
      raise run_lib.Interrupted(f'run {i} of {count}: {stopped}') from stopped
    except (errors.RunError, errors.UsageError) as error:
      failed[str(task)] = str(error)
      say(f'run {i} of {count} failed: {error}')
  return failed


def _train(
  task: Task,
  name: str,
  should_stop: Callable[[], bool],
  say: Callable[[str], None],
) -> None:
  folder, config = task.folder, task.config
  result = folder.read('result.json')
  if result is not None and result['epochs'] == task.epochs:
    say(f'{name}: {task}: finished before')
    known = folder.read(run_dir.ALONE)
    if known is None or known['epochs'] != config.epochs:
      trained.alone(config, folder, result, name, should_stop=should_stop)
    return
  say(f'{name}: {task}')
  result, alone = trained.run(config, folder, name, should_stop=should_stop)
  metric = tasks.headline(result)
  beside = f', alone {alone[metric.name]:.2f}%' if alone else ''
  say(f'{name} is done: {metric.text} {result[metric.name]:.2f}%{beside}')


def report(planned: Plan, failed: dict[str, str]) -> dict[str, Any]:
  """Returns the figures of a sweep's finished runs; see `compare.figures`.

  Args:
    planned: The sweep.
    failed: The reasons of the runs that failed, by their names.

  Raises:
    RunError: No run is finished.
  """
  left_out = [f'{name}: failed: {why}' for name, why in failed.items()]
  runs = []
  for task in planned.tasks:
    if str(task) in failed:
      continue
    try:
      runs.append(finished.of_folder(task.folder.path))
    except finished.UnusableError as error:
      left_out.append(f'{task}: {error}')
  if not runs:
    raise errors.RunError(f'no run is finished: {"; ".join(left_out)}')
  found, _ = groups.group(runs)
  of_row = {
    json.dumps(row.config, sort_keys=True): row for row in planned.groups
  }
  labelled = []
  for one in found:
    row = of_row[json.dumps(one.config, sort_keys=True)]
    labelled.append(one._replace(label=row.label, shown=row.shown))
  labelled.sort(
    key=lambda one: [r.label for r in planned.groups].index(one.label)
  )
  reference = planned.reference
  if reference not in {one.label for one in labelled}:
    left_out.append(f'{reference}: it was to be the reference')
    reference = labelled[0].label
  return {**compare.figures(labelled, reference, left_out), 'failed': failed}
