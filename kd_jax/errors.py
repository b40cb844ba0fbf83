"""What goes wrong because of what a caller asked for, and how it is said."""

from collections.abc import Iterable
import difflib
import importlib
from typing import Any


class UsageError(ValueError):
  """A request that cannot be met: the wrong value, what is allowed, the cure.

  Entry points print it as one line and end with exit code 2.
  """


class RunError(RuntimeError):
  """A run that must stop: one line that says why; exit code 1."""


def unknown(kind: str, value: str, choices: Iterable[str]) -> UsageError:
  """The error for a name that is not among `choices`, nearest ones first.

  Args:
    kind: what the name stands for, such as 'method'.
    value: the name as it was given.
    choices: the names that are allowed.
  """
  names = sorted(choices)
  near = difflib.get_close_matches(value, names, n=3, cutoff=0.5)
  hint = f'; did you mean {" or ".join(repr(n) for n in near)}?' if near else ''
  return UsageError(
    f'unknown {kind} {value!r}{hint} (there are: {", ".join(names) or "none"})'
  )


def imported(module: str, attribute: str) -> Any:
  """The attribute of a module of the user's own.

  Raises:
    UsageError: where there is no such module or attribute.
  """
  try:
    found = importlib.import_module(module)
  except (ModuleNotFoundError, TypeError, ValueError) as error:
    raise UsageError(
      f'cannot import {module!r}: {error}; it must be installed or its folder '
      'on PYTHONPATH'
    ) from error
  if not hasattr(found, attribute):
    raise unknown(
      f'name in module {module}:',
      attribute,
      (name for name in vars(found) if not name.startswith('_')),
    )
  return getattr(found, attribute)
