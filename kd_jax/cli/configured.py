"""Configurations from the command line: --config and --config.a.b=value."""

from collections.abc import Iterator, Sequence
import contextlib
import re
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from kd_jax import config as config_lib
from kd_jax import errors

# What other tools call a key.
_OTHER_NAMES = {
  'lr': 'optimizer.learning_rate.value',
  'learning_rate': 'optimizer.learning_rate.value',
  'optimizer.lr': 'optimizer.learning_rate.value',
  'wd': 'optimizer.weight_decay',
  'weight_decay': 'optimizer.weight_decay',
  'momentum': 'optimizer.momentum',
  'bs': 'batch_size',
  'temperature': 'method_args.temperature',
  'dataset': 'data.name',
  'model': 'student.name',
}
_WRONG = (flags.Error, AttributeError, KeyError, TypeError, ValueError)


def load(recipe: str, overrides: Sequence[str]) -> ConfigDict:
  """Returns the configuration that arguments stand for.

  Args:
    recipe: The value of --config: FILE[:recipe].
    overrides: Arguments such as '--config.a.b=value'.

  Raises:
    UsageError: There is no such recipe, or an argument is wrong.
  """
  config = config_lib.load(recipe)
  arguments, values = ['kd-jax', *overrides], flags.FlagValues()
  with mistakes([f'--config={recipe}', *overrides], ()):
    config_flags.DEFINE_config_dict(
      'config', config, flag_values=values, sys_argv=arguments
    )
    rest = values(arguments)
  if len(rest) > 1:
    raise stray(rest[1])
  return values.config


def stray(argument: str) -> errors.UsageError:
  """Returns the error for an argument that is no option's value."""
  with contextlib.suppress(errors.UsageError):
    config_lib.load(argument)
    return errors.UsageError(
      f'unexpected argument {argument!r}: did you mean --config {argument}?'
    )
  return errors.UsageError(
    f'unexpected argument {argument!r}: options begin with --, and a value '
    'follows its option after ='
  )


def missing() -> errors.UsageError:
  """Returns the error for a command line without --config."""
  return errors.UsageError('--config is missing: try --config fpd')


def in_order(argv: Sequence[str]) -> list[str]:
  """Returns the arguments with --config first, and its value as a path.

  Raises:
    UsageError: Keys are changed of no --config.
  """
  given, others, arguments = [], [], iter(argv)
  for argument in arguments:
    name, equals, value = argument.partition('=')
    if name in ('--config', '-config'):
      value = value if equals else next(arguments, '')
      if not value:
        raise missing()
      given.append(f'--config={_found(value)}')
    else:
      others.append(argument)
  if not given and any(x.startswith('--config.') for x in others):
    raise missing()
  return [*given, *others]


def _found(value: str) -> str:
  file, colon, recipe = value.partition(':')
  return config_lib.find(file) + colon + recipe


@contextlib.contextmanager
def mistakes(argv: Sequence[str], options: Sequence[str]) -> Iterator[None]:
  """Raises UsageError, of one plain line, in place of flag parsing's errors.

  Args:
    argv: The arguments.
    options: The names of the options that there are beside --config.a.b.
  """
  try:
    yield
  except _WRONG as error:
    raise _usage_error(error, argv, options) from error


def _usage_error(
  error: Exception, argv: Sequence[str], options: Sequence[str]
) -> errors.UsageError:
  """Returns an error of flag parsing as a UsageError of one plain line."""
  text = str(error.args[0] if error.args else error).strip()
  if 'Traceback' in text:  # raised inside a configuration file
    text = text.splitlines()[-1].removeprefix('kd_jax.errors.UsageError: ')
  text = ' '.join(text.split())
  if match := re.match(r"Unknown command line flag '(.+?)'", text):
    return _unknown_option(match[1], options)
  if match := re.match(r'flag --config\.(.+?)=(.*?): Failed to parse', text):
    return _group(match[1], match[2])
  config = _configuration(argv)
  for key in _keys(argv) if config is not None else ():
    if not _has(config, key):
      return _unknown_key(config, key)
  return errors.UsageError(text.replace('\\n', ' '))


def _unknown_option(name: str, options: Sequence[str]) -> errors.UsageError:
  keys = {f'--config.{key.path}' for key in config_lib.KEYS}
  if (same := f'--config.{name}') in keys:
    return errors.UsageError(f'unknown option --{name}; did you mean {same!r}?')
  there = [f'--{option}' for option in options]
  return errors.unknown('option', f'--{name}', [*there, '--config.KEY=VALUE'])


def _group(key: str, value: str) -> errors.UsageError:
  """Returns the error for a value that a group of keys is set to."""
  if key.endswith('learning_rate'):
    try:
      inner = f'value={float(value)}'
    except ValueError:
      inner = f'kind={value}'
  else:
    inner = 'NAME=VALUE'
  return errors.UsageError(
    f'config.{key}={value}: this is a group of keys; change one of them, '
    f'--config.{key}.{inner} (`kd-jax list keys` shows them)'
  )


def _configuration(argv: Sequence[str]) -> ConfigDict | None:
  """Returns the configuration of --config as its file has it, if it loads."""
  for argument in argv:
    name, equals, value = argument.partition('=')
    if name == '--config' and equals:
      try:
        return config_lib.load(value)
      except Exception:  # of the file, which is the error that is reported
        return None
  return None


def _keys(argv: Sequence[str]) -> list[str]:
  """Returns the keys that --config.a.b arguments name, in order."""
  names = (argument.partition('=')[0] for argument in argv)
  return [
    name.removeprefix('--config.')
    for name in names
    if name.startswith('--config.')
  ]


def _has(config: ConfigDict, key: str) -> bool:
  node: Any = config
  for part in key.split('.'):
    if not isinstance(node, ConfigDict) or part not in node:
      return False
    node = node[part]
  return True


def _unknown_key(config: ConfigDict, key: str) -> errors.UsageError:
  """Returns the error for a key that a configuration lacks."""
  if key in _OTHER_NAMES:
    return errors.UsageError(
      f'unknown key config.{key}; did you mean config.{_OTHER_NAMES[key]}?'
    )
  group, _, name = key.rpartition('.')
  while group and not _has(config, group):
    group, _, name = group.rpartition('.')
  inside: Any = config
  for part in filter(None, group.split('.')):
    inside = inside[part]
  if not isinstance(inside, ConfigDict):
    return errors.UsageError(
      f'unknown key config.{key}: config.{group} is {inside!r}, not a group'
    )
  where = f'config.{group}' if group else 'config'
  return errors.unknown(f'key of {where}:', name, inside)
