"""Files of `torch.save`, read without PyTorch and without running their code.

Such a file is a pickle, with the numbers of its tensors beside it: in a zip
archive, or one after the other in the files of torch before 1.6. A pickle may
name any function to be called. Here the names that build tensors stand for
functions of this module, and every other name for an `Inert` class, so that
nothing of the file is run, whatever it holds beside its tensors.
"""

from collections.abc import Callable, Iterator
import contextlib
import io
import math
from typing import Any, BinaryIO, NamedTuple
import zipfile

import jax.numpy as jnp
import numpy as np

from kd_jax.runtime import unpickling

# The numbers with which files of torch before 1.6 begin, each a pickle.
MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_REPEATED = 1 << 24  # the most numbers of a tensor that repeats few
_PICKLE = 1 << 26  # the most bytes of a pickle that has its tensors beside it

# The bytes of a number of each dtype.
_SIZES = {
  'bool': 1, 'uint8': 1, 'int8': 1, 'qint8': 1, 'quint8': 1, 'quint4x2': 1,
  'quint2x4': 1, 'float8_e4m3fn': 1, 'float8_e5m2': 1, 'float8_e4m3fnuz': 1,
  'float8_e5m2fnuz': 1, 'float8_e8m0fnu': 1, 'int16': 2, 'uint16': 2,
  'float16': 2, 'bfloat16': 2, 'int32': 4, 'uint32': 4, 'qint32': 4,
  'float32': 4, 'complex32': 4, 'int64': 8, 'uint64': 8, 'float64': 8,
  'complex64': 8, 'complex128': 16,
}  # fmt: skip
# The dtypes of torch's classes of storages, 'FloatStorage' and so on.
_STORAGES = {
  'Float': 'float32', 'Double': 'float64', 'Half': 'float16',
  'BFloat16': 'bfloat16', 'Long': 'int64', 'Int': 'int32', 'Short': 'int16',
  'Char': 'int8', 'Byte': 'uint8', 'Bool': 'bool', 'QInt8': 'qint8',
  'QUInt8': 'quint8', 'QInt32': 'qint32', 'QUInt4x2': 'quint4x2',
  'QUInt2x4': 'quint2x4', 'ComplexFloat': 'complex64',
  'ComplexDouble': 'complex128', 'Untyped': 'uint8',
}  # fmt: skip
# The dtypes whose values are read.
FLOATS = ('float16', 'bfloat16', 'float32', 'float64')


class Tensor(NamedTuple):
  """A tensor of a file, whose values are read when they are asked for.

  Attributes:
    dtype: The name of its dtype, such as 'float32'.
    shape: Its shape.
    values: Returns its values, if its dtype is one of `FLOATS`.
  """

  dtype: str
  shape: tuple[int, ...]
  values: Callable[[], np.ndarray]


class DamageError(ValueError):
  """What a file says of itself cannot be true."""


class Inert:
  """Stands for an object of a class that is not a tensor's; it does nothing."""

  def __new__(cls, *args: Any, **kwargs: Any) -> 'Inert':
    """Returns an object, whatever the arguments are."""
    del args, kwargs
    return object.__new__(cls)

  def __init__(self, *args: Any, **kwargs: Any):
    """Takes any arguments, and keeps none."""

  def __call__(self, *args: Any, **kwargs: Any) -> 'Inert':
    """Returns itself."""
    return self

  def __setstate__(self, state: Any) -> None:
    """Keeps nothing."""

  def __setitem__(self, key: Any, value: Any) -> None:
    """Keeps nothing."""

  def append(self, value: Any) -> None:
    """Keeps nothing."""

  extend = add = append


class Entries(dict[Any, Any]):
  """A dict of a file, without what torch says of it beside its entries."""

  def __setstate__(self, state: Any) -> None:
    """Keeps nothing."""


class _Storage(NamedTuple):
  """The numbers of one or more tensors."""

  dtype: str
  key: str
  length: int  # in numbers
  read: Callable[['_Storage'], bytes]


@contextlib.contextmanager
def opened_zip(file: BinaryIO) -> Iterator[Any]:
  """Yields the content of a file of torch 1.6 or newer; see `opened_stream`.

  Args:
    file: The file.

  Raises:
    KeyError: It is a zip archive of something else.
  """
  with zipfile.ZipFile(file) as archive:
    places = [n for n in archive.namelist() if n.split('/')[1:] == ['data.pkl']]
    if not places:
      raise KeyError('data.pkl')
    root = places[0].removesuffix('data.pkl')
    order = f'{root}byteorder'
    if order in archive.namelist():
      with archive.open(order) as text:
        if text.read(8) != b'little':
          raise DamageError('its numbers are big-endian')

    def read(storage: _Storage) -> bytes:
      with archive.open(f'{root}data/{storage.key}') as data:
        return data.read(storage.length * _SIZES[storage.dtype])

    with archive.open(places[0]) as pickled:
      content = pickled.read(_PICKLE + 1)
    if len(content) > _PICKLE:
      raise DamageError(f'more than {_PICKLE} bytes of names')
    yield _Reader(io.BytesIO(content), read).load()


@contextlib.contextmanager
def opened_stream(file: BinaryIO) -> Iterator[Any]:
  """Yields the content of a file of torch before 1.6.

  It consists of dicts (`Entries` and `dict`), lists, tuples, strings and
  numbers, of a `Tensor` for each tensor, and of `Inert` objects.

  Args:
    file: The file, open for as long as values of tensors are read.

  Raises:
    KeyError: It is a pickle that `torch.save` did not write.
    Exception: It is damaged: any that reading a pickle may raise.
  """
  places: dict[str, int] = {}

  def read(storage: _Storage) -> bytes:
    file.seek(places[storage.key])
    return file.read(storage.length * _SIZES[storage.dtype])

  if _Reader(file, read).load() != MAGIC:
    raise KeyError('magic number')
  version, system = (_Reader(file, read).load() for _ in range(2))
  if version != _PROTOCOL or not system.get('little_endian', True):
    raise DamageError('its version or byte order is unknown')
  reader = _Reader(file, read)
  content = reader.load()
  for key in _Reader(file, read).load():
    storage = reader.storages[key]
    if int.from_bytes(file.read(8), 'little') != storage.length:
      raise DamageError(f'storage {key} has another length')
    places[key] = file.tell()
    file.seek(storage.length * _SIZES[storage.dtype], io.SEEK_CUR)
  yield content


class _Reader(unpickling.Unpickler):
  """Reads a pickle, of which only tensors and plain values are built."""

  def __init__(self, file: BinaryIO, read: Callable[[_Storage], bytes]):
    super().__init__(file, encoding='latin1')
    self.read_storage = read
    self.storages: dict[str, _Storage] = {}

  def persistent_load(self, pid: Any) -> Any:
    """Returns what torch keeps outside of the pickle."""
    if pid[0] != 'storage':
      return pid[1]  # the class of a whole network, with its source
    _, dtype, key, _, count = pid[:5]
    if not isinstance(dtype, str) or (len(pid) > 5 and pid[5]):
      raise DamageError('a storage of an unknown kind')
    self.storages[key] = _Storage(dtype, key, int(count), self.read_storage)
    return self.storages[key]

  def find_class(self, module: str, name: str) -> Any:
    """Returns what stands for a name; see the module's docstring."""
    if module == 'collections' and name == 'OrderedDict':
      return Entries
    if module in ('torch', 'torch.storage', 'torch.cuda'):
      if name.removesuffix('Storage') in _STORAGES and name.endswith('Storage'):
        return _STORAGES[name.removesuffix('Storage')]
      if name in _SIZES:
        return name
    if module in ('torch._utils', 'torch._tensor') and name in _BUILDERS:
      return _Builder(name)
    return type(name.split('.')[-1], (Inert,), {'__module__': module})


class _Builder:
  """A function of torch by its name; it has no attributes to be changed."""

  __slots__ = ('_name',)

  def __init__(self, name: str):
    self._name = name

  def __setstate__(self, state: Any) -> None:
    """Keeps nothing."""

  def __call__(self, *args: Any) -> Any:
    """Calls the function of this module that stands for it."""
    return _BUILDERS[self._name](*args)


def _tensor(
  storage: _Storage, offset: int, size: Any, stride: Any, *more: Any
) -> Tensor:
  """Returns a tensor; `more` may name a dtype that differs from storage's."""
  dtype = next((x for x in more if isinstance(x, str)), storage.dtype)
  shape, strides = tuple(map(int, size)), tuple(map(int, stride))
  if min((0, offset, *shape, *strides)) < 0 or len(shape) != len(strides):
    raise DamageError(f'a tensor of shape {shape} and strides {strides}')

  def values() -> np.ndarray:
    if dtype not in FLOATS:
      raise DamageError(f'{dtype} is not read')
    kind = np.dtype(jnp.bfloat16 if dtype == 'bfloat16' else dtype)
    numbers = np.frombuffer(storage.read(storage), kind.newbyteorder('<'))
    last = sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    size = math.prod(shape)
    too_many = size > max(len(numbers), _REPEATED)
    if too_many or (size and offset + last >= len(numbers)):
      raise DamageError(f'{len(numbers)} numbers for a tensor of shape {shape}')
    steps = tuple(s * kind.itemsize for s in strides)
    part = numbers[offset:] if size else numbers[:0]
    return np.lib.stride_tricks.as_strided(part, shape, steps).copy()

  return Tensor(dtype, shape, values)


def _quantised(storage: _Storage, *args: Any) -> Tensor:
  def values() -> np.ndarray:
    raise DamageError(f'{storage.dtype} is not read')

  return Tensor(storage.dtype, tuple(map(int, args[1])), values)


def _same(tensor: Any, *args: Any) -> Any:
  del args
  return tensor


def _applied(function: Any, kind: Any, args: Any, state: Any) -> Any:
  del kind, state
  return function(*args) if isinstance(function, _Builder) else Inert()


_BUILDERS: dict[str, Callable[..., Any]] = {
  '_rebuild_tensor': _tensor,
  '_rebuild_tensor_v2': _tensor,
  '_rebuild_tensor_v3': _tensor,
  '_rebuild_qtensor': _quantised,
  '_rebuild_parameter': _same,
  '_rebuild_parameter_with_state': _same,
  '_rebuild_from_type_v2': _applied,
}
