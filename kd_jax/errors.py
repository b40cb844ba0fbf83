"""The errors that are reported to the user in one line."""

from collections.abc import Iterable, Iterator
import contextlib
import difflib
import importlib
import re
import sys
import traceback
from typing import Any
import unicodedata

_WORD, _LINE = 256, 4000  # the most characters of a word and of a line
# Control characters, format characters (of direction, of no width), halves of
# pairs, separators of lines; and fillers, which are letters that nobody sees.
_HIDDEN = {'Cc', 'Cf', 'Cs', 'Zl', 'Zp'}
_FILLERS = '\u034f\u115f\u1160\u3164\uffa0'
_URL = re.compile(r'(?i)\bhttps?://\S+')
_HARMLESS = re.compile(r'(?i)[\w.-]+=(true|false|0|1)')  # of a URL's query


def shown(text: object, most: int = _WORD) -> str:
  """Returns a text from outside as a person may see it: one line, no controls.

  What moves the cursor, ends a line, changes the direction of writing or is
  invisible is escaped as Python does: '\\x1b', '\\n', '\\u202e'. Other
  characters of any script stay as they are.

  Args:
    text: The text, such as the name of a file, a class or an array.
    most: The most characters; of a longer text the middle is left out, and its
      length is said.
  """
  said = str(text)
  if len(said) > most:
    half = max(1, (most - 32) // 2)  # 32 for what stands between the halves
    said = f'{said[:half]}...({len(said)} characters)...{said[-half:]}'
  if said.isascii() and said.isprintable():
    return said
  return ''.join(
    c.encode('unicode_escape').decode()
    if unicodedata.category(c) in _HIDDEN or c in _FILLERS
    else c
    for c in said
  )


def line(text: object) -> str:
  """Returns a text as one line: escaped, shortened, no secret of a URL in it.

  Args:
    text: The text. A word of it is shortened as `shown` does, and the whole.
  """
  said = _URL.sub(_public, str(text))
  said = re.sub(
    rf'\S{{{_WORD + 1},}}', lambda match: shown(match[0], _WORD), said
  )
  return shown(said, _LINE)


def lines(text: str) -> str:
  """Returns each line of a text as `line` does."""
  return '\n'.join(line(part) for part in text.split('\n'))


def public(url: str) -> str:
  """Returns a URL of http or https without what may be a secret.

  That is 'user:password@', the part after '#', and all of the query but what is
  switched, such as 'download=true'; other texts are returned as they are.

  Args:
    url: The URL, which may be wrong.
  """
  if not re.match('(?i)https?://', url):
    return url
  scheme, _, rest = url.partition('://')
  end = re.match('[^/?#]*', rest).end()  # type: ignore[union-attr]
  port = re.sub(r'\[.*\]', '', rest[:end].rpartition('@')[2]).partition(':')[2]
  if port and not port.isdigit():  # a password with a '/', a '?' or a '#'
    end = len(rest)
  rest = rest[rest.rfind('@', 0, end) + 1 :].partition('#')[0]
  place, _, query = rest.partition('?')
  kept = '&'.join(x for x in query.split('&') if _HARMLESS.fullmatch(x))
  return f'{scheme}://{place}' + (f'?{kept}' if kept else '')


def _public(match: re.Match[str]) -> str:
  url = match[0].rstrip('\'")]>.,;:')
  return public(url) + match[0][len(url) :]


class UsageError(ValueError):
  """An error of a caller who asks for something that cannot be done.

  The message names the wrong value, what is allowed, and the remedy. Entry
  points print it as one line and end with exit code 2; see `line`.
  """

  def __str__(self) -> str:
    """Returns the message in one line."""
    return line(super().__str__())


class ArgumentError(UsageError):
  """A UsageError about an argument; its message begins 'argument=value'.

  Where the value comes from a configuration or a command line, `keys` puts the
  name that its user knows in place of the argument's.
  """


class RunError(RuntimeError):
  """An error that stops a run.

  The message is one line that gives the reason; the exit code is 1.
  """

  def __str__(self) -> str:
    """Returns the message in one line; see `line`."""
    return line(super().__str__())


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
    UsageError: The module or the attribute does not exist, the module is one of
      Python's own, or it lacks another module, or a value or a type is wrong as
      its code runs.
  """
  if module.partition('.')[0] in sys.stdlib_module_names:
    raise UsageError(
      f"{module}:{attribute} is a part of Python's standard library; name a "
      'module of your own'
    )
  try:
    imported_module = importlib.import_module(module)
  except (ModuleNotFoundError, TypeError, ValueError) as error:
    if place := _place(error):
      raise UsageError(
        f'cannot import {module!r}: {place}, raises {type(error).__name__}: '
        f'{error}; correct that code, or install what it lacks'
      ) from error
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


def _place(error: BaseException) -> str:
  """Returns 'file, line 3' of the module whose import failed, or ''.

  It is the innermost one that ran: '' where Python found none to run.
  """
  frames = [
    frame
    for frame in traceback.extract_tb(error.__traceback__)
    if frame.name == '<module>'
  ]
  return f'{frames[-1].filename}, line {frames[-1].lineno}' if frames else ''
