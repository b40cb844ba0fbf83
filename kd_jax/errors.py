"""The errors that are reported to the user in one line."""

from collections.abc import Iterable, Iterator
import contextlib
import difflib
import importlib
import sys
from typing import Any


class UsageError(ValueError):
  """An error of a caller who asks for something that cannot be done.

  The message names the wrong value, what is allowed, and the remedy. Entry
  points print it as one line and end with exit code 2.
  """


class ArgumentError(UsageError):
  """A UsageError about an argument; its message begins 'argument=value'.

  Where the value comes from a configuration or a command line, `keys` puts the
  name that its user knows in place of the argument's.
  """


class RunError(RuntimeError):
  """An error that stops a run.

  The message is one line that gives the reason; the exit code is 1.
  """


@contextlib.contextmanager
def keys(prefix: str = '', **names: str) -> Iterator[None]:
  """Renames the argument in the message of an ArgumentError.

  `with keys('config.data.')` raises 'image_size=9: ...' again as the UsageError
  'config.data.image_size=9: ...'.

  Args:
    prefix: What is put before the argument, such as 'config.data.'.
    **names: Whole names, without the prefix, by argument.

  Raises:
    UsageError: An ArgumentError was raised in the context; it is the cause.
  """
  try:
    yield
  except ArgumentError as error:
    argument, equals, rest = str(error).partition('=')
    key = names.get(argument, prefix + argument)
    raise UsageError(f'{key}{equals}{rest}') from error


def unknown(kind: str, value: str, choices: Iterable[str]) -> UsageError:
  """Returns the error for a name that is not among `choices`.

  Its message suggests the allowed names that resemble `value`, then lists all.

  Args:
    kind: What the name stands for, such as 'method'.
    value: The unknown name.
    choices: The names that are allowed.

  Returns:
    The error, for the caller to raise.
  """
  names = sorted(choices)
  similar = difflib.get_close_matches(str(value), names, n=3, cutoff=0.5)
  hint = (
    f'; did you mean {" or ".join(repr(name) for name in similar)}?'
    if similar
    else ''
  )
  return UsageError(
    f'unknown {kind} {value!r}{hint} (there are: {", ".join(names) or "none"})'
  )


def imported(module: str, attribute: str) -> Any:
  """Returns an attribute of a module that the user wrote.

  Args:
    module: The module's import path.
    attribute: The attribute's name.

  Returns:
    The attribute.

  Raises:
    UsageError: The module or the attribute does not exist, or the module is one
      of Python's own.
  """
  if module.partition('.')[0] in sys.stdlib_module_names:
    raise UsageError(
      f"{module}:{attribute} is a part of Python's standard library; name a "
      'module of your own'
    )
  try:
    imported_module = importlib.import_module(module)
  except (ModuleNotFoundError, TypeError, ValueError) as error:
    raise UsageError(
      f'cannot import {module!r}: {error}; it must be installed or its folder '
      'on PYTHONPATH'
    ) from error
  if not hasattr(imported_module, attribute):
    raise unknown(
      f'name in module {module}:',
      attribute,
      (name for name in vars(imported_module) if not name.startswith('_')),
    )
  return getattr(imported_module, attribute)
