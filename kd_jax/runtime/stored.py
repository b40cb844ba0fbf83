"""Reads the files of runs and exports, which others may have written.

What is there is data: it is read only if it is a regular file, so that a pipe
or a device never makes a command wait; numbers are finite and of 64 bits; and
the fields that kd_jax reads have the types that it writes. Whoever reads a file
by `read` need not ask again.
"""

from collections.abc import Callable, Iterator, Mapping
import json
import math
import os
import re
import stat
from typing import Any, NamedTuple

from etils import epath

from kd_jax import config as config_lib
from kd_jax import errors
from kd_jax.runtime import gcs

MOST_BYTES = 64 * 2**20  # of a JSON file; those of a run have a few thousand
_MOST_DEPTH = 40  # levels of lists and objects; those of a run have 6
_CURE = 'copy it again from where it came'


class Kind(NamedTuple):
  """What a field may be.

  Attributes:
    said: It in words.
    fits: Returns whether a value is such.
  """

  said: str
  fits: Callable[[Any], bool]


def _is_whole(value: Any) -> bool:
  return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
  return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))


def _each(fits: Callable[[Any], bool], length: int = 0) -> Callable[..., bool]:
  """Returns whether a value is a list of such, of a length if it is given."""
  return lambda value: (
    isinstance(value, list)
    and len(value) == (length or len(value))
    and all(map(fits, value))
  )


def _is_text(value: Any) -> bool:
  return isinstance(value, str)


BOOL = Kind('true or false', lambda value: isinstance(value, bool))
COUNT = Kind('a whole number, 0 or more', lambda x: _is_whole(x) and x >= 0)
LIST = Kind('a list', lambda value: isinstance(value, list))
NUMBER = Kind('a finite number', _is_number)
NUMBERS = Kind('a list of finite numbers', _each(_is_number))
OBJECT = Kind('an object', lambda value: isinstance(value, dict))
OBJECTS = Kind(
  'an object of objects',
  lambda x: (
    isinstance(x, dict) and all(isinstance(v, dict) for v in x.values())
  ),
)
PERCENT = Kind('0 to 100 percent', lambda x: _is_number(x) and 0 <= x <= 100)
SIDE = Kind('1 to 8192 pixels', lambda x: _is_whole(x) and 1 <= x <= 8192)
TEXT = Kind('a text', _is_text)
TEXTS = Kind('a list of texts', _each(_is_text))
NAMES = Kind('a list of names', lambda x: bool(x) and _each(_is_text)(x))
WHOLE = Kind('a whole number', _is_whole)
NETWORKS = Kind(
  "objects by name with a text 'name' and an object 'args'",
  lambda x: (
    OBJECTS.fits(x)
    and all(
      _is_text(v.get('name')) and isinstance(v.get('args', {}), dict)
      for v in x.values()
    )
  ),
)
MEAN = Kind('3 finite numbers', _each(_is_number, 3))
STD = Kind(
  '3 numbers above 0', _each(lambda x: _is_number(x) and 0 < x < 1e6, 3)
)


def _or_none(kind: Kind) -> Kind:
  return Kind(
    f'{kind.said}, or null', lambda x: x is None or bool(kind.fits(x))
  )


def _kind_of(default: Any) -> Kind:
  """Returns what a key of a configuration may be, by its default."""
  by_type = {
    bool: BOOL, int: WHOLE, float: NUMBER, str: TEXT, tuple: LIST,
  }  # fmt: skip
  return by_type.get(type(default), OBJECT)


_FACTS_OF_DATA = {
  'name': TEXT, 'class_names': NAMES, 'image_size': SIDE, 'num_train': COUNT,
  'num_test': COUNT, 'num_val': COUNT, 'mean': MEAN, 'std': STD,
  'fingerprint': TEXT, 'task': TEXT, 'place': TEXT,
}  # fmt: skip
_FACTS_OF_TEACHER = {
  'network': TEXT, 'from': TEXT, 'digest': TEXT, 'top1': PERCENT,
  'top5': PERCENT, 'top1_val': PERCENT, 'top1_train': PERCENT,
  'miou': PERCENT, 'map': PERCENT,
  'best_on_test': _or_none(PERCENT), 'wall_s': NUMBER, 'notes': TEXTS,
}  # fmt: skip
_FACTS_OF_INIT = {
  'from': TEXT, 'digest': TEXT, 'parameters': COUNT, 'of': COUNT,
  'fresh': TEXTS, 'notes': TEXTS,
}  # fmt: skip
_RESULT = {
  'method': TEXT, 'data': TEXT, 'network': TEXT, 'kept': NAMES, 'seed': WHOLE,
  'epochs': NUMBER, 'steps': COUNT, 'train_images': COUNT,
  'test_images': COUNT, 'params': COUNT, 'flops': NUMBER, 'top1': PERCENT,
  'top5': PERCENT, 'miou': PERCENT, 'map': PERCENT, 'headline': TEXT,
  'best_on_test': PERCENT, 'best_on_val': PERCENT, 'wall_s': NUMBER,
  'commit': TEXT, 'teacher': _or_none(OBJECT), 'teachers': OBJECTS,
  'versions': OBJECT,
  'ema': OBJECT, 'ema.decay': NUMBER, 'ema.top1': PERCENT, 'ema.top5': PERCENT,
  'ema.miou': PERCENT, 'ema.map': PERCENT,
}  # fmt: skip
# The fields by file and path; a field may be missing.
FIELDS: dict[str, dict[str, Kind]] = {
  'config.json': {
    **{key.path: _kind_of(key.default) for key in config_lib.KEYS},
    'data.color_jitter': NUMBERS,
    'data.mean': NUMBERS,
    'data.std': NUMBERS,
    'students': NETWORKS,
    'teachers': NETWORKS,
    'optimizer.learning_rate': Kind(
      'a number or an object', lambda x: _is_number(x) or isinstance(x, dict)
    ),
    'data_facts': _or_none(OBJECT),
    **{f'data_facts.{name}': kind for name, kind in _FACTS_OF_DATA.items()},
  },
  'result.json': {
    **_RESULT,
    **{f'teacher.{name}': kind for name, kind in _FACTS_OF_TEACHER.items()},
    'init': OBJECT,
    **{f'init.{name}': kind for name, kind in _FACTS_OF_INIT.items()},
  },
  'alone.json': {**_RESULT, 'from': TEXT},
  'teacher.json': _FACTS_OF_TEACHER,
  'init.json': _FACTS_OF_INIT,
  'data.json': {'place': TEXT},
  'wandb.json': {'id': TEXT, 'step': COUNT},
  'mlflow.json': {'id': TEXT},
  'network.json': {
    'format': COUNT, 'kd_jax': TEXT, 'jax': TEXT, 'sha256': OBJECT,
    'network': TEXT, 'network_args': OBJECT, 'dtype': TEXT,
    'task': TEXT, 'image_size': SIDE, 'class_names': NAMES, 'mean': MEAN,
    'std': STD, 'kept': NAMES, 'parameters': COUNT, 'flops': NUMBER,
    'accuracy': OBJECT, 'accuracy.data': TEXT, 'accuracy.split': TEXT,
    'accuracy.images': COUNT, 'accuracy.correct': COUNT,
    'accuracy.top1': PERCENT,
    'accuracy.top5': PERCENT, 'accuracy.miou': PERCENT,
    'accuracy.protocol': TEXT, 'data': OBJECT,
    'data.name': TEXT,
    'data.train_size': COUNT, 'data.val_fraction': NUMBER,
    'data.image_size': COUNT, 'data.fingerprint': TEXT, 'data.place': TEXT,
    'result': OBJECT, 'result.method': TEXT, 'result.wall_s': NUMBER,
    'result.best_on_test': PERCENT, 'teacher': _or_none(TEXT),
    'teachers': OBJECT,
  },
}  # fmt: skip
_RECORD = {'step': COUNT, 'epoch': NUMBER}
_OF_TEACHER = re.compile(r'teacher-\w+\.json')  # of several teachers


def content(path: epath.Path, most: int | None = None) -> bytes:
  """Returns the content of a regular file.

  Args:
    path: The file, on a disk or in a bucket.
    most: The most bytes; None is any number.

  Raises:
    OSError: It is not there, or may not be read.
    UsageError: It is a folder, a pipe or a device, or has more bytes.
  """
  if gcs.is_bucket(path):
    return path.read_bytes()
  # A pipe would wait for its other end without O_NONBLOCK.
  number = os.open(os.fspath(path), os.O_RDONLY | os.O_NONBLOCK)
  try:
    facts = os.fstat(number)
    if not stat.S_ISREG(facts.st_mode):
      raise errors.UsageError(f'{path} is no regular file: {_CURE}')
    if most is not None and facts.st_size > most:
      raise errors.UsageError(
        f'{path} has {facts.st_size} bytes, and such a file has at most {most}:'
        f' {_CURE}'
      )
    with open(number, 'rb', closefd=False) as file:
      return file.read()
  finally:
    os.close(number)


def check_regular(folder: epath.Path) -> None:
  """Checks that a folder on a disk holds regular files and folders alone.

  Raises:
    UsageError: It holds a pipe, a socket or a device.
  """
  if gcs.is_bucket(folder):
    return
  for place, _, names in os.walk(folder):
    for name in names:
      path = os.path.join(place, name)
      if os.path.exists(path) and not os.path.isfile(path):
        raise errors.UsageError(f'{path} is no regular file: {_CURE}')


def read(path: epath.Path, fields: Mapping[str, Kind] | None = None) -> Any:
  """Returns the content of a JSON file that holds an object.

  Args:
    path: The file.
    fields: What its fields may be, by their paths; None are those of `FIELDS`
      for its name, if they are known.

  Raises:
    OSError: It is not there, or may not be read.
    UsageError: It is no such file, or a field has another type.
  """
  value = parsed(content(path, MOST_BYTES), str(path))
  kind = _OF_TEACHER.sub('teacher.json', path.name)
  known = FIELDS.get(kind, {}) if fields is None else fields
  check(value, known, str(path))
  return value


def read_if_there(path: epath.Path) -> Any:
  """Does what `read` does, but returns None where there is no file."""
  return read(path) if path.exists() else None


def parsed(text: bytes, name: str) -> Any:
  """Returns the value of a JSON text.

  Args:
    text: The text.
    name: What it is called in a message.

  Raises:
    UsageError: It is no JSON, nests deeply, has a key twice, or a number that
      is not finite or has more than 64 bits.
  """
  try:
    value = json.loads(
      text,
      object_pairs_hook=_once,
      parse_constant=_refused,
      parse_float=_finite,
      parse_int=_small,
    )
    _check_depth(value)
  except RecursionError as error:
    why = 'it nests too deeply'
    raise errors.UsageError(f'{name} is damaged: {why}; {_CURE}') from error
  except ValueError as error:
    raise errors.UsageError(f'{name} is damaged: {error}; {_CURE}') from error
  return value


def _check_depth(value: Any) -> None:
  """Raises ValueError if what works by recursion could not copy a value."""
  values = [value]
  for _ in range(_MOST_DEPTH):
    groups = [
      v.values() if isinstance(v, dict) else v
      for v in values
      if isinstance(v, dict | list)
    ]
    values = [inner for group in groups for inner in group]
  if values:
    raise ValueError('it nests too deeply')


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  if len(value := dict(pairs)) != len(pairs):
    names = [name for name, _ in pairs]
    twice = next(name for name in names if names.count(name) > 1)
    raise ValueError(f'the key {twice[:80]!r} is there twice')
  return value


def _refused(text: str) -> Any:
  raise ValueError(f'{text} is no finite number')


def _finite(text: str) -> float:
  if not math.isfinite(value := float(text)):
    raise ValueError(f'{text[:20]} is no finite number')
  return value


def _small(text: str) -> int:
  if len(text) > 20 or not -(2**63) <= int(text) < 2**64:
    raise ValueError(f'{text[:20]}... has more than 64 bits')
  return int(text)


def check(value: Any, fields: Mapping[str, Kind], name: str) -> None:
  """Checks that a value is an object whose fields have their types.

  Args:
    value: The content of a file.
    fields: What a field may be, by its path; it may be missing.
    name: What the file is called in a message.

  Raises:
    UsageError: It is no object, or a field has another type.
  """
  if not isinstance(value, dict):
    raise errors.UsageError(f'{name} holds no JSON object: {_CURE}')
  for path, kind in fields.items():
    group: Any = value
    *groups, last = path.split('.')
    for i, key in enumerate(groups):
      group = group.get(key) if group else None
      if group is not None and not isinstance(group, dict):
        raise _wrong(name, '.'.join(groups[: i + 1]), group, OBJECT)
    if group and last in group and not kind.fits(group[last]):
      raise _wrong(name, path, group[last], kind)


def _wrong(name: str, path: str, value: Any, kind: Kind) -> errors.UsageError:
  text = repr(value)
  text = text if len(text) <= 60 else f'{text[:60]}...'
  return errors.UsageError(
    f'{name}: {path} is {text}, not {kind.said}; {_CURE}'
  )


def records(text: str, name: str) -> Iterator[dict[str, Any]]:
  """Yields the records of a text with a JSON object a line.

  A line that is cut, as a process that is killed may leave it, is left out.
  Figures may be infinite or NaN, as a training may measure them.

  Args:
    text: The text.
    name: What it is called in a message.

  Raises:
    UsageError: A line holds something else than a record with its step.
  """
  for number, line in enumerate(text.splitlines(), 1):
    where = f'{name}, line {number}'
    try:
      record = json.loads(line, parse_int=_small)
    except RecursionError as error:
      raise errors.UsageError(f'{where} nests too deeply: {_CURE}') from error
    except json.JSONDecodeError:
      continue
    except ValueError as error:
      raise errors.UsageError(f'{where}: {error}; {_CURE}') from error
    check(record, _RECORD, where)
    if 'step' not in record:
      raise errors.UsageError(f'{where} has no step: {_CURE}')
    for key, value in record.items():  # 'train/ce', 'test/top1', ...
      if '/' in key and not isinstance(value, int | float):
        raise _wrong(where, key, value, NUMBER)
    yield record
