"""What the students of a run begin with: `config.student.init`, or chance."""

from collections.abc import Callable, Sequence
import re
from typing import Any, NamedTuple

from etils import epath
import flax.linen as nn
import jax
from ml_collections import ConfigDict
import numpy as np

from kd_jax import errors, pytrees
from kd_jax.distill import build, inspect
from kd_jax.models.pretrained import partial
from kd_jax.runtime import distributed, downloads, run_dir, sharding
from kd_jax.training import origin, report, restore, teacher_path

_KEYS = teacher_path.INIT
_FILE = 'init.json'
_GROUP = 'student/'  # of what was trained, whose parameters are taken
# The layers that give a value for each class.
_SCORES = re.compile(r'params/(fc|decoder/scores|logits\d+)/')
_SHOWN = 8  # modules that the line of a start lists


class Start(NamedTuple):
  """What the students begin with.

  Attributes:
    facts: Where it is from, its digest, how many parameters are taken, and what
      begins at random; {} if all does.
    values: Returns what is taken, by path, on the run's devices; see
      `step.first`.
  """

  facts: dict[str, Any]
  values: Callable[[], dict[str, Any]]

  def keep(self, folder: run_dir.Folder, say: Callable[[str], None]) -> None:
    """Writes the facts into a run's folder, if it lacks them, and says them.

    Args:
      folder: The run's folder.
      say: A function that prints a line for the user.
    """
    if not self.facts:
      return
    if folder.read(_FILE) is None:
      folder.write(_FILE, self.facts)
    for line in _lines(self.facts):
      say(line)


def check(
  config: ConfigDict, parts: build.Parts, folder: run_dir.Folder
) -> Start:
  """Returns what the students begin with, which must fit them.

  It is called before the folder is claimed, so that a wrong path leaves nothing
  behind. A path that is gone does not matter to a run that has a checkpoint.

  Args:
    config: The configuration of the run.
    parts: The parts of the run.
    folder: The run's folder.

  Raises:
    UsageError: There is nothing that fits, or something else than what the run
      in the folder was begun with.
  """
  path = _KEYS.value(config, 'path')
  if not path:
    _check_unused(config)
    return Start({}, dict)
  facts = folder.read(_FILE)
  if facts is not None:
    was, key = facts.get('digest', ''), _KEYS.name('path')
    distributed.first(
      lambda: origin.check(
        was, teacher_path.digest(config, _KEYS), path, folder, key, 'network'
      )
    )

    def again() -> dict[str, Any]:
      values, _ = distributed.together(lambda: _taken(config, parts))
      return _put(values, parts)

    return Start(facts, again)
  _check_one_network(parts)
  if downloads.is_url(path):
    distributed.first(lambda: str(teacher_path.file(config, _KEYS)))
  values, facts = distributed.together(lambda: _taken(config, parts))
  digest = distributed.first(lambda: teacher_path.digest(config, _KEYS))
  return Start({**facts, 'digest': digest}, lambda: _put(values, parts))


def _put(values: dict[str, Any], parts: build.Parts) -> dict[str, Any]:
  """Returns values on every device of the run."""
  return sharding.put(values, sharding.replicated(parts.mesh))


def _check_one_network(parts: build.Parts) -> None:
  """Raises UsageError if a student's variables are not those of the first."""
  (name, network), *others = parts.exp.students.items()
  for other, another in others:
    if another == network:
      continue
    here, there = _shapes(network, parts), _shapes(another, parts)
    for path in sorted(here.keys() | there.keys()):
      if here.get(path) != there.get(path):
        raise errors.UsageError(
          f'{_KEYS.name("path")} is for students of one network, and {other} '
          f'is another than {name}: {path} is {_said(there.get(path))} and '
          f"{_said(here.get(path))}; give '', or all students one network"
        )


def _said(shape: tuple[int, ...] | None) -> str:
  return 'not there' if shape is None else f'{list(shape)}'


def _shapes(
  network: nn.Module, parts: build.Parts
) -> dict[str, tuple[int, ...]]:
  """Returns the shapes of a student's variables by path."""
  variables = inspect.variables_of(network, parts.source.info.image_size)
  return {
    pytrees.path_name(where): tuple(leaf.shape)
    for where, leaf in jax.tree_util.tree_leaves_with_path(dict(variables))
  }


def _check_unused(config: ConfigDict) -> None:
  for key in ('skip', 'key', 'sha256'):
    if value := _KEYS.value(config, key):
      raise errors.UsageError(
        f'{_KEYS.name(key)}={value!r}: it is for the weights of '
        f'{_KEYS.name("path")}, which names none'
      )


def _taken(
  config: ConfigDict, parts: build.Parts
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Returns the values that the students begin with, and the facts."""
  path = _KEYS.value(config, 'path')
  network = next(iter(parts.exp.students.values()))
  expected = _shapes(network, parts)
  skip = _KEYS.value(config, 'skip')
  is_file = teacher_path.is_file(path)
  file = teacher_path.file(config, _KEYS) if is_file else path
  with teacher_path.about(path, _KEYS), errors.keys('config.student.init_'):
    if is_file:
      key = _KEYS.value(config, 'key')
      taken = partial.of_file(network, expected, file, key, skip)
    else:
      taken = _of_run(config, parts, path, expected, skip)
  students = list(parts.exp.students)
  alike = len(students) > 1 and not taken.fresh
  notes = [f'all students begin alike ({", ".join(students)})'] * alike
  place = errors.public(path)
  if not downloads.is_url(path):
    place = str(run_dir.Folder(epath.Path(path).expanduser()).path)
  return taken.values, {
    'from': place,
    'parameters': taken.parameters,
    'of': taken.of,
    'fresh': list(taken.fresh),
    'notes': [*taken.notes, *notes],
  }


def _of_run(
  config: ConfigDict,
  parts: build.Parts,
  path: str,
  expected: dict[str, tuple[int, ...]],
  skip: Sequence[str],
) -> partial.Taken:
  """Returns what is taken of a run or an export."""
  if key := _KEYS.value(config, 'key'):
    raise errors.ArgumentError(
      f'key={key!r}: it is for a file of weights, and this is none'
    )
  names = (config.student.name, config.teacher.name, config.method)
  allowed = _KEYS.value(config, 'allow_imports') or names
  trained = restore.load(path, parts.mesh, allowed)
  there = {
    name.removeprefix(_GROUP): value
    for name, value in trained.weights.items()
    if name.startswith(_GROUP)
  }
  taken = partial.of_variables(expected, there, skip)
  info, notes = parts.source.info, [*taken.notes]
  for key, here in (('mean', info.mean), ('std', info.std)):
    if not np.allclose(trained.facts[key], here, atol=1e-4):
      notes.append(
        f'it was trained with {key} {tuple(trained.facts[key])}, and sees '
        f'images with {tuple(here)} here (config.data.{key})'
      )
  same = list(trained.facts['class_names']) == list(info.class_names)
  if not same and any(map(_SCORES.match, taken.values)):
    notes.append('its classes have other names, and their outputs are taken')
  return taken._replace(notes=tuple(notes))


def _lines(facts: dict[str, Any]) -> list[str]:
  fresh = facts['fresh']
  more = len(fresh) - _SHOWN
  at_random = ', '.join(fresh[:_SHOWN]) + (f' and {more} more' * (more > 0))
  return [
    f'start     {report.short(facts["parameters"])} of '
    f'{report.short(facts["of"])} parameters of {facts["from"]}'
    + (f'; at random: {at_random}' if fresh else ''),
    *(f'          {note}' for note in facts['notes']),
  ]
