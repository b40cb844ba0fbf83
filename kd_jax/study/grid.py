"""The grid of a sweep, as the command line writes it: KEY=VALUE,VALUE."""

from collections.abc import Iterator, Mapping, Sequence
import itertools
import re
from typing import NamedTuple

from kd_jax import errors

_KEY = re.compile(r'[A-Za-z_]\w*(\.\w+)*')
_OPENING, _CLOSING = '([{', ')]}'
_MOST = 120  # characters in the name of a folder


class Axis(NamedTuple):
  """A key of the configuration, and the values that it takes.

  Attributes:
    key: The key, such as 'method_args.temperature'.
    values: The values as they are written.
  """

  key: str
  values: tuple[str, ...]


def axes(texts: Sequence[str]) -> list[Axis]:
  """Returns the axes of a grid.

  Args:
    texts: Of each axis KEY=VALUE,VALUE,...; the key may begin with 'config.'.

  Raises:
    UsageError: A text is none of these, or two have the same key.
  """
  found: dict[str, Axis] = {}
  for text in texts:
    key, equals, values = text.partition('=')
    key = key.strip().removeprefix('config.')
    if not equals or not _KEY.fullmatch(key):
      raise errors.UsageError(
        f'--set {text}: give a key and its values, such as weights.kd=0.5,0.9'
      )
    if key == 'seed':
      raise errors.UsageError(f'--set {text}: give --seeds {values}')
    if key in found:
      raise errors.UsageError(
        f'--set {text}: {key} is set twice; give all its values at once'
      )
    found[key] = Axis(key, tuple(split(values, f'--set {text}')))
  return list(found.values())


def split(text: str, where: str) -> list[str]:
  """Returns the values between the commas outside of brackets and quotes.

  '(4,4),(8,8)' are the two values '(4,4)' and '(8,8)'. A value without brackets
  that is in quotes as a whole loses them: "'a,b',c" are 'a,b' and 'c'.

  Args:
    text: The values.
    where: What the message of an error begins with.

  Raises:
    UsageError: A value is missing, or a bracket or a quote is not closed.
  """
  values, open_brackets, quote = [''], '', ''
  for character in text:
    if quote:
      quote = '' if character == quote else quote
    elif character in '\'"':
      quote = character
    elif character in _OPENING:
      open_brackets += _CLOSING[_OPENING.index(character)]
    elif character in _CLOSING:
      if not open_brackets.endswith(character):
        raise errors.UsageError(f'{where}: {character!r} closes no bracket')
      open_brackets = open_brackets[:-1]
    elif character == ',' and not open_brackets:
      values.append('')
      continue
    values[-1] += character
  if open_brackets or quote:
    raise errors.UsageError(f'{where}: {quote or open_brackets[-1]} is missing')
  values = [value.strip() for value in values]
  if '' in values:
    raise errors.UsageError(
      f"{where}: a value is missing; the empty string is written ''"
    )
  return [
    value[1:-1] if re.fullmatch(r"'[^']*'|\"[^\"]*\"", value) else value
    for value in values
  ]


def product(of: Sequence[Axis]) -> Iterator[dict[str, str]]:
  """Yields every combination of values, by key; the last key varies fastest."""
  for values in itertools.product(*(axis.values for axis in of)):
    yield dict(zip((axis.key for axis in of), values, strict=True))


def folder(values: Mapping[str, str]) -> str:
  """Returns the name of a folder for a combination of values.

  Args:
    values: The values as they are shown, by key.
  """
  parts = [
    f'{key}={re.sub(r"[^A-Za-z0-9.+-]+", "_", value).strip("_") or "none"}'
    for key, value in values.items()
  ]
  return '-'.join(parts)[:_MOST] or 'run'
