"""What makes two runs the same run, and the runs that a run implies."""

from collections.abc import Mapping
import copy
import functools
import hashlib
import json
from typing import Any

from ml_collections import ConfigDict

from kd_jax import errors
from kd_jax.config import schema


def of_teacher(config: ConfigDict) -> ConfigDict:
  """The configuration that trains the teacher of a distillation run.

  It takes the data from the run and all else from the defaults and the
  teacher's recipe, so that every run and seed with this teacher shares it.
  """
  result = schema.default()
  for path in schema.TAKEN_FROM_RUN:
    *groups, last = path.split('.')
    theirs = functools.reduce(getattr, groups, result)
    ours = functools.reduce(getattr, groups, config)
    with theirs.ignore_type():
      theirs[last] = copy.deepcopy(ours[last])
  args = config.teacher.args.to_dict()
  args.pop('batch_norm', None)  # how the teacher is used, not trained
  result.student = schema.network(config.teacher.name, **args)
  result.baseline = 'off'
  recipe = config.teacher.recipe.to_dict()
  rate = recipe.get('optimizer', {}).pop('learning_rate', None)
  if rate is not None:  # whole, not merged with the default's
    result.optimizer.learning_rate = (
      ConfigDict(rate) if isinstance(rate, dict) else rate
    )
  try:
    result.lock().update(recipe)
  except (AttributeError, KeyError, TypeError) as error:
    raise errors.UsageError(
      f'config.teacher.recipe: {" ".join(str(error.args[0]).split())}'
    ) from error
  return result


def of_baseline(config: ConfigDict) -> ConfigDict:
  """The configuration that trains a run's student alone, all else equal."""
  result = config.copy_and_resolve_references()
  fresh = schema.default()
  for key in (
    'method', 'method_args', 'weights', 'teacher', 'trainable', 'phases'
  ):  # fmt: skip
    result[key] = fresh[key]
  # Without the rules of what is not there.
  result.optimizer.rules = tuple(
    rule
    for rule in result.optimizer.rules
    if not rule[0].startswith(('^method', '^leader', '^student_'))
  )
  result.baseline = 'off'
  return result


def plain(config: ConfigDict) -> dict[str, Any]:
  """The configuration as JSON has it: dicts, lists, numbers, strings.

  Raises:
    UsageError: for a value that JSON cannot hold, such as a function.
  """
  try:
    return json.loads(json.dumps(config.to_dict()))
  except TypeError as error:
    raise errors.UsageError(
      f'the configuration holds a value that cannot be saved: {error}; write '
      'schedules as dicts and classes as import paths'
    ) from error


def determining(values: Mapping[str, Any]) -> dict[str, Any]:
  """`values` of `plain` without what is indifferent to a run's result."""
  kept = copy.deepcopy(dict(values))
  for path in schema.INDIFFERENT:
    *groups, last = path.split('.')
    group = kept
    for name in groups:
      group = group.get(name, {})
    group.pop(last, None)
    if groups and not group:  # nothing of the group is left
      kept.pop(groups[0], None)
  return kept


def digest(config: ConfigDict, more: Any = None) -> str:
  """A short name of all that determines a run's result, 8 hex digits."""
  text = json.dumps([determining(plain(config)), more], sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:8]


def difference(old: Any, new: Any, path: str = 'config') -> list[str]:
  """One line for each value in which two plain configurations differ."""
  if isinstance(old, dict) and isinstance(new, dict):
    lines = []
    for key in sorted({*old, *new}):
      lines += difference(
        old.get(key, '(absent)'), new.get(key, '(absent)'), f'{path}.{key}'
      )
    return lines
  return [] if old == new else [f'{path}: {old!r} there, {new!r} here']
