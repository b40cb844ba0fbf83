"""The networks of a run by their names: its students and its teachers.

A method asks for students and teachers by name. `config.students` and
`config.teachers` have a group of fields for a name; a name that is not there
takes `config.student` or `config.teacher`.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
from typing import Any

from ml_collections import ConfigDict

from kd_jax import errors
from kd_jax.config import schema

# Of `config.teacher`, what is said once for all teachers of a run.
_OF_ALL = ('cache_logits', 'sees')
# What a group of `config.students` has; all else of `config.student` is said
# once for all students.
_OF_STUDENT = ('name', 'args')


def named(config: Mapping[str, Any], role: str) -> Mapping[str, Any]:
  """Returns the groups of `config.students` or `config.teachers` by name.

  Args:
    config: The configuration, as a ConfigDict or as a dict. That of an older
      run has neither of them.
    role: 'student' or 'teacher'.
  """
  return config.get(f'{role}s') or {}


def key(config: Mapping[str, Any], role: str, name: str) -> str:
  """Returns where a network stands: 'config.student', 'config.teachers.a'.

  Args:
    config: The configuration.
    role: 'student' or 'teacher'.
    name: The network's name.
  """
  is_named = name in named(config, role)
  return f'config.{role}s.{name}' if is_named else f'config.{role}'


def student(config: ConfigDict, name: str) -> ConfigDict:
  """Returns the 'name' and the 'args' of a student's network.

  Raises:
    UsageError: `config.students` has no such group of fields.
  """
  if name not in named(config, 'student'):
    return config.student
  return _whole(config, 'student', name)


def with_teacher(config: ConfigDict, name: str) -> ConfigDict:
  """Returns a configuration that has one of the run's teachers as its teacher.

  Fields that `config.teachers` lacks for the name have their defaults.

  Args:
    config: The configuration of the run.
    name: The teacher's name.

  Returns:
    The configuration, with the teacher as `config.teacher`; the same object
    where it stands there already.

  Raises:
    UsageError: `config.teachers` has no such group of fields.
  """
  if name not in named(config, 'teacher'):
    return config
  teacher = _whole(config, 'teacher', name)
  for field in _OF_ALL:
    teacher[field] = config.teacher[field]
  result = config.copy_and_resolve_references()
  result.teacher, result.teachers = teacher, ConfigDict()
  return result


def _whole(config: ConfigDict, role: str, name: str) -> ConfigDict:
  """Returns the fields of a named network, with defaults for those it lacks."""
  group, where = named(config, role)[name], f'config.{role}s.{name}'
  if not isinstance(group, ConfigDict):
    raise errors.UsageError(
      f"{where}={group!r}: give a group of fields, such as {{'name': "
      "'resnet8'}"
    )
  whole = schema.default()[role]
  fields: Sequence[str] = _OF_STUDENT
  if role == 'teacher':
    fields = [field for field in whole if field not in _OF_ALL]
  for field in group:
    if role == 'student' and field in whole and field not in _OF_STUDENT:
      raise errors.UsageError(
        f'{where}.{field}={group[field]!r}: it is for all students of a run; '
        f'set config.student.{field}'
      )
    if field not in fields:
      raise errors.unknown(f'field of {where}:', field, fields)
  if not group.get('name'):
    raise errors.UsageError(
      f"{where} names no network: give its 'name', as `kd-jax list networks` "
      'shows it'
    )
  try:
    whole.update(group)
  except (AttributeError, TypeError) as error:
    raise errors.UsageError(f'{where}: {error}') from error
  return whole


@contextlib.contextmanager
def naming(config: ConfigDict, name: str) -> Iterator[None]:
  """Puts a teacher's own keys into the messages of errors.

  What works on `with_teacher(config, name)` speaks of `config.teacher.path`
  where the user wrote `config.teachers.a.path`.

  Args:
    config: The configuration of the run.
    name: The teacher's name.
  """
  try:
    yield
  except (errors.UsageError, errors.RunError) as error:
    where = key(config, 'teacher', name)
    text = str(error).replace('config.teacher.', f'{where}.')
    error.args = (text, *error.args[1:])
    raise


def check(
  config: ConfigDict, students: Sequence[str], teachers: Sequence[str]
) -> None:
  """Checks that a configuration has the networks that its method asks for.

  Args:
    config: The configuration.
    students: The names of the method's students.
    teachers: The names of the method's teachers.

  Raises:
    UsageError: It lacks a teacher, or has a network that the method lacks.
  """
  method = f'method {config.method}'
  given = config.teacher.name or ', '.join(named(config, 'teacher'))
  if given and not teachers:
    where = 'teacher.name' if config.teacher.name else 'teachers'
    empty = 'the empty string' if config.teacher.name else '{}'
    raise errors.UsageError(
      f'{method} has no teacher, but config.{where} is {given!r}: set it to '
      f'{empty}'
    )
  for role, names in (('student', students), ('teacher', teachers)):
    for name in named(config, role):
      if name not in names:
        kind = f'{role} in config.{role}s, for {method}:'
        raise errors.unknown(kind, name, names)
  others = [name for name in teachers if name not in named(config, 'teacher')]
  if others and not config.teacher.name:
    raise errors.UsageError(
      f'{method} needs a teacher: set config.teacher.name'
      if others == ['teacher']
      else f'{method} reads the teachers {", ".join(teachers)}, and '
      f'config.teachers lacks {", ".join(others)}: give '
      f"config.teachers.{others[0]} a 'name'"
    )
  if len(others) > 1:
    raise errors.UsageError(
      f'config.teacher would be {len(others)} teachers of {method}, '
      f'{" and ".join(others)}: give each but one a group in config.teachers'
    )
  if config.teacher.name and teachers and not others:
    raise errors.UsageError(
      f'config.teacher.name={config.teacher.name!r} is no teacher of {method}: '
      f'{", ".join(teachers)} stand in config.teachers; set it to the empty '
      'string'
    )


def deployed(config: Mapping[str, Any], groups: Sequence[str]) -> str:
  """Returns the name of the student that a run deploys.

  Args:
    config: The configuration of the run, as a ConfigDict or as a dict.
    groups: The groups whose parameters its prediction reads, as 'kept' of its
      result lists them.

  Returns:
    The name, or 'student' for a network that has none in `config.students`.
  """
  students = named(config, 'student')
  return next((name for name in groups if name in students), 'student')
