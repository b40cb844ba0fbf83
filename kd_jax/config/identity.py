"""The identity of runs, and the configurations of teacher and baseline runs."""

from collections.abc import Mapping
import copy
import functools
import hashlib
import json
import re
from typing import Any

from ml_collections import ConfigDict

from kd_jax import errors
from kd_jax.config import roles, schema


def of_teacher(config: ConfigDict) -> ConfigDict:
  """Returns the configuration that trains the teacher of a distillation run.

  The data and a few other keys (`schema.TAKEN_FROM_RUN`) come from the run;
  all others come from the defaults and the teacher's recipe. So all runs and
  seeds with this teacher share one trained network.

  Args:
    config: The configuration of the distillation run.

  Raises:
    UsageError: `config.teacher.recipe` has an unknown key or a value of a
      wrong type.
  """
  result = schema.default()
  for path in schema.TAKEN_FROM_RUN:
    *groups, last = path.split('.')
    target = functools.reduce(getattr, groups, result)
    source = functools.reduce(getattr, groups, config)
    with target.ignore_type():
      target[last] = copy.deepcopy(source[last])
  if config.teacher.image_size:
    result.data.image_size = config.teacher.image_size
  args = config.teacher.args.to_dict()
  # It says how a run uses the teacher, not how the teacher is trained.
  args.pop('batch_norm', None)
  result.student.update(schema.network(config.teacher.name, **args))
  result.baseline = 'off'
  recipe = config.teacher.recipe.to_dict()
  try:
    _replace(result, recipe.get('optimizer', {}))
    result.lock().update(recipe)
  except (AttributeError, KeyError, TypeError) as error:
    raise errors.UsageError(
      f'config.teacher.recipe: {" ".join(str(error.args[0]).split())}'
    ) from error
  return result


def _replace(result: ConfigDict, optimizer: dict[str, Any]) -> None:
  """Moves what replaces a default without merging out of a recipe's optimizer.

  Args:
    result: The configuration in which it is set.
    optimizer: The group 'optimizer' of the recipe.
  """
  rate, args = (optimizer.pop(key, None) for key in ('learning_rate', 'args'))
  if rate is not None:  # a constant, or the fields of a schedule
    with result.ignore_type():
      result.optimizer.learning_rate = (
        ConfigDict(rate) if isinstance(rate, dict) else rate
      )
  if args is not None:
    result.optimizer.args = ConfigDict(args) if isinstance(args, dict) else args


def of_baseline(config: ConfigDict, student: str = 'student') -> ConfigDict:
  """Returns the configuration that trains a run's student without a teacher.

  All other settings are those of the run.

  Args:
    config: The configuration of the distillation run.
    student: The name of the student, which is the deployed one.
  """
  result = config.copy_and_resolve_references()
  defaults = schema.default()
  network, deployed = roles.student(result, student), _deployed(result, student)
  # All students of a run begin alike, so the rest of `student` stays.
  result.student.name, result.student.args = network.name, network.args
  for key in (
    'method', 'method_args', 'weights', 'teacher', 'teachers', 'students',
    'trainable', 'phases', 'batch_students',
  ):  # fmt: skip
    result[key] = defaults[key]
  rules = [
    (_alone(expression, deployed), changes)
    for expression, changes in result.optimizer.rules
  ]
  result.optimizer.rules = tuple(rule for rule in rules if rule[0])
  result.baseline = 'off'
  return result


def _deployed(config: ConfigDict, student: str) -> str:
  """Returns the name that rules have for the deployed student, if known."""
  names = config.method_args.get('students', ())
  if student in roles.named(config, 'student') or not names:
    return student
  return names[0] if isinstance(names, list | tuple) else student


def _alone(expression: str, deployed: str) -> str:
  """Returns a rule's expression for the student alone; '' if it has none.

  Args:
    expression: The expression, for paths such as 'student_0/fc/kernel'.
    deployed: The name that it has for the deployed student.
  """
  begin = re.compile(rf'\^{re.escape(deployed)}(?!\w)')
  if begin.match(expression):
    return begin.sub('^student', expression)
  others = expression.startswith(('^method', '^leader', '^student_'))
  name = re.match(r'\^(\w+)(?![\w?*{|])[^|]*$', expression)
  if others or (name and not 'student'.startswith(name[1])):
    return ''
  return expression


def alone(
  values: Mapping[str, Any], student: str = 'student'
) -> dict[str, Any]:
  """Returns what determines the result of a run's student trained alone.

  Runs with the same result here share their student alone.

  Args:
    values: The configuration of the run, as returned by `plain`.
    student: The name of the student, which is the deployed one.
  """
  return determining(plain(of_baseline(ConfigDict(dict(values)), student)))


def plain(config: ConfigDict) -> dict[str, Any]:
  """Returns the configuration as dicts, lists, numbers and strings.

  URLs are without what may be a secret; see `errors.public`.

  Args:
    config: The configuration.

  Raises:
    UsageError: JSON cannot represent a value, such as a function.
  """
  try:
    return _public(json.loads(json.dumps(config.to_dict())))
  except TypeError as error:
    raise errors.UsageError(
      f'the configuration holds a value that cannot be saved: {error}; write '
      'schedules as dicts and classes as import paths'
    ) from error


def determining(values: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a configuration without the keys that do not change the result.

  Args:
    values: The configuration, as returned by `plain`.
  """
  kept = _public(dict(values))
  for path in (*schema.INDIFFERENT, *schema.ADDED):
    *groups, last = path.split('.')
    group = kept
    for name in groups:
      group = group.get(name, {})
    named = roles.named(kept, 'teacher') if groups == ['teacher'] else {}
    default = schema.ADDED.get(path)
    for fields in (group, *named.values()):
      if path in schema.INDIFFERENT or _same(fields.get(last), default):
        fields.pop(last, None)
    if groups and not group:
      kept.pop(groups[0], None)
  for fields in (
    kept.get('teacher', {}),
    *roles.named(kept, 'teacher').values(),
  ):
    if isinstance(recipe := fields.get('recipe'), dict):
      _drop_defaults(recipe)
  return kept


def _drop_defaults(recipe: dict[str, Any]) -> None:
  """Removes what a teacher's recipe names and does not change.

  Args:
    recipe: The recipe, which is changed.
  """
  for path in (*schema.OF_RECIPES, 'student.init'):
    group, _, last = path.partition('.')
    values = recipe.get(group)
    if isinstance(values, dict) and _same(values.get(last), schema.ADDED[path]):
      values.pop(last)
      if not values:
        recipe.pop(group)


def _public(value: Any) -> Any:
  """Returns a copy of a value of JSON, in which URLs have no secrets."""
  if isinstance(value, dict):
    return {key: _public(entry) for key, entry in value.items()}
  if isinstance(value, list | tuple):
    return [_public(entry) for entry in value]
  return errors.public(value) if isinstance(value, str) else value


def _same(value: Any, default: Any) -> bool:
  """Returns whether a value of JSON, where a tuple is a list, is a default."""
  return value == json.loads(json.dumps(default, default=dict))


def digest(config: ConfigDict, more: Any = None) -> str:
  """Returns a hash of all that determines a run's result, 8 hex digits.

  Args:
    config: The configuration.
    more: A JSON value that determines the result too.
  """
  text = json.dumps([determining(plain(config)), more], sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:8]


def difference(old: Any, new: Any, path: str = 'config') -> list[str]:
  """Returns one line for each value in which two configurations differ.

  Args:
    old: The configuration called 'there' in the lines, as returned by `plain`.
    new: The configuration called 'here' in the lines, as returned by `plain`.
    path: The name of the compared values in the lines.
  """
  if isinstance(old, dict) and isinstance(new, dict):
    lines = []
    for key in sorted({*old, *new}):
      lines += difference(
        old.get(key, '(absent)'), new.get(key, '(absent)'), f'{path}.{key}'
      )
    return lines
  return [] if old == new else [f'{path}: {old!r} there, {new!r} here']
