"""Trains a run, and beside it its student alone."""

from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from kd_jax import config as config_lib
from kd_jax import tasks
from kd_jax.config import roles
from kd_jax.distill import build
from kd_jax.runtime import distributed, run_dir
from kd_jax.training import facts, together
from kd_jax.training import run as run_lib


def run(
  config: ConfigDict,
  folder: run_dir.Folder,
  label: str = '',
  *,
  should_stop: Callable[[], bool] = lambda: False,
  observe: Callable[[run_lib.Progress], None] = lambda progress: None,
  member: together.Member | None = None,
) -> tuple[dict[str, Any], dict[str, Any] | None]:
  """Trains a run and its student alone to their ends.

  Args:
    config: The configuration of the run.
    folder: The run's folder, which is new or holds this run.
    label: A label that begins every line on the screen.
    should_stop: Returns whether to save and stop; see `training.run.train`.
    observe: Called with where the run is; see there.
    member: The run among those that it trains together with, if any.

  Returns:
    The content of the run's result.json, and that of the student alone, as
    `alone` returns it.

  Raises:
    UsageError: The configuration cannot run here.
    RunError: The run failed.
    Interrupted: The run was asked to stop.
  """
  asked: Any = {
    'should_stop': should_stop, 'observe': observe, 'member': member
  }  # fmt: skip
  result = run_lib.train(config, folder, label, **asked)
  return result, alone(config, folder, result, label, **asked)


def alone(
  config: ConfigDict,
  folder: run_dir.Folder,
  result: dict[str, Any],
  label: str = '',
  *,
  should_stop: Callable[[], bool] = lambda: False,
  observe: Callable[[run_lib.Progress], None] = lambda progress: None,
  member: together.Member | None = None,
) -> dict[str, Any] | None:
  """Returns the result of the student trained without a teacher, or None.

  `config.baseline` says whether to train it, to read an earlier result or
  neither. It is in the cache, which all runs share; its result is copied to
  alone.json in the run's folder. If it is trained, the run's curves.png is
  drawn again.

  Args:
    config: The configuration of the finished run.
    folder: The run's folder.
    result: The content of its result.json.
    label: A label that begins every line on the screen.
    should_stop: Returns whether to save and stop.
    observe: Called with where the run is; see `training.run.train`.
    member: The run among those that it trains together with, if any. Its
      student alone is behind no run of the others.
  """
  info = build.open_source(config).info
  groups = result.get('kept', ())
  place = run_lib.alone(config, info, groups)
  if place is None:
    return None
  known = place.read('result.json')
  if config.baseline == 'train':
    if member:
      member.stage += 1
    found = run_lib.train(
      config_lib.of_baseline(config, roles.deployed(config, groups)),
      place,
      f'{label} alone'.strip(),
      should_stop=should_stop,
      observe=observe,
      shared=True,
      member=member,
    )
  else:
    found = known
  if found is None:
    return None
  kept = {**found, 'from': str(place.path)}
  if (
    folder.read(run_dir.ALONE) != kept
  ):  # it is of fewer epochs, where a run went on
    folder.write(run_dir.ALONE, kept)
  if known is None:  # its line is not in the picture yet
    metric = tasks.find(info.task).headline
    teachers, student = facts.teachers(result), roles.deployed(config, groups)
    distributed.first(
      lambda: run_lib.draw(config, folder, metric, teachers, found, student)
    )
  return found
