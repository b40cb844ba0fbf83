"""Configurations from the command line: --config and --config.a.b=value."""

from collections.abc import Iterator, Sequence
import contextlib
import re

from absl import flags
from ml_collections import ConfigDict, config_flags

from kd_jax import config as config_lib
from kd_jax import errors

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
  with mistakes():
    config_flags.DEFINE_config_dict(
      'config', config, flag_values=values, sys_argv=arguments
    )
    rest = values(arguments)
  if len(rest) > 1:
    raise stray(rest[1])
  return values.config


def stray(argument: str) -> errors.UsageError:
  """Returns the error for an argument that is no option's value."""
  return errors.UsageError(
    f'unexpected argument {argument!r}: options begin with --, and a value '
    'follows its option after ='
  )


def missing() -> errors.UsageError:
  """Returns the error for a command line without --config."""
  return errors.UsageError('--config is missing: try --config fpd')


def with_paths(argv: Sequence[str]) -> list[str]:
  """Returns the arguments with the value of --config replaced by a path."""
  arguments = list(argv)
  for i, argument in enumerate(arguments):
    name, equals, value = argument.partition('=')
    if name in ('--config', '-config') and equals:
      arguments[i] = f'{name}={_found(value)}'
    elif argument in ('--config', '-config') and i + 1 < len(arguments):
      arguments[i + 1] = _found(arguments[i + 1])
  return arguments


def _found(value: str) -> str:
  file, colon, recipe = value.partition(':')
  return config_lib.find(file) + colon + recipe


@contextlib.contextmanager
def mistakes() -> Iterator[None]:
  """Raises UsageError, of one plain line, in place of flag parsing's errors."""
  try:
    yield
  except _WRONG as error:
    raise _usage_error(error) from error


def _usage_error(error: Exception) -> errors.UsageError:
  """Returns an error of flag parsing as a UsageError of one plain line."""
  text = str(error.args[0] if error.args else error).strip()
  if 'Traceback' in text:  # raised inside a configuration file
    text = text.splitlines()[-1].removeprefix('kd_jax.errors.UsageError: ')
  text = ' '.join(text.split())
  if re.fullmatch(r"""["']*\w+["']*""", text):
    key = text.strip('"\'')
    text = f'unknown key {key!r} of config: `kd-jax list keys` has all'
  match = re.search(r'Did you mean "(.+?)" instead of "(.+?)"', text)
  if match:
    text = f'unknown key {match[2]!r} of config; did you mean {match[1]!r}?'
  return errors.UsageError(text.replace('\\n', ' '))
