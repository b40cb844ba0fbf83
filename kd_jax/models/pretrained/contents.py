"""What a file of weights holds, or one line that says what it is instead."""

from collections.abc import Iterable, Iterator
import contextlib
import os
import re
import tarfile
from typing import Any, BinaryIO
import zipfile

import jax.numpy as jnp
import numpy as np
import safetensors

from kd_jax import errors
from kd_jax.models.pretrained import torch_save
from kd_jax.models.pretrained.torch_save import Tensor

# The suffixes of files of weights, in small letters.
SUFFIXES = (
  '.safetensors', '.pth', '.pt', '.ckpt', '.tar', '.bin', '.pkl', '.pickle',
  '.t7', '.model', '.weights',
)  # fmt: skip
_HEAD = 512  # bytes from which a file is recognised
_ZIP, _PICKLE = b'PK\x03\x04', re.compile(rb'\x80[\x02-\x05]')
_WANTED = 'give a .safetensors file, or one that torch.save wrote'
# By how a file begins, what it is and what helps.
_OTHERS = (
  (
    rb'version https://git-lfs',
    'a pointer of git-lfs in place of the file: run `git lfs pull` where it '
    'was cloned',
  ),
  (
    rb'(?is)\s*(<!--.*?-->\s*)*<(!doctype\s+html|html|head|body|\?xml)',
    'a web page and not the file: download it again by the link of the file '
    'itself',
  ),
  (rb'\x1f\x8b|BZh|\xfd7zXZ\0|\x28\xb5\x2f\xfd', 'compressed: unpack it first'),
  (rb'\x89HDF', f'an HDF5 file, such as Keras writes: {_WANTED}'),
  (rb'\x93NUMPY', f'an array of NumPy: {_WANTED}'),
  (rb'\s*[\[{]', f'JSON text: {_WANTED}'),
)
_DTYPES = {
  'F16': 'float16', 'BF16': 'bfloat16', 'F32': 'float32', 'F64': 'float64',
  'F8_E4M3': 'float8_e4m3fn', 'F8_E5M2': 'float8_e5m2', 'BOOL': 'bool',
  'I8': 'int8', 'I16': 'int16', 'I32': 'int32', 'I64': 'int64',
  'U8': 'uint8', 'U16': 'uint16', 'U32': 'uint32', 'U64': 'uint64',
}  # fmt: skip


def is_weights(path: str | os.PathLike[str]) -> bool:
  """Returns whether a path is meant to be that of a file of weights.

  It is one of `SUFFIXES` in large or small letters, or any file that is there,
  except for the JSON files of runs and exports.

  Args:
    path: The path, of a file that need not exist.
  """
  text = os.fspath(path)
  if text.lower().endswith(SUFFIXES):
    return not os.path.isdir(text)
  return os.path.isfile(text) and not text.lower().endswith('.json')


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[dict[Any, Any]]:
  """Yields what a file of weights holds.

  Args:
    path: The file, of safetensors or of `torch.save`, whatever its suffix.

  Yields:
    A dict of `Tensor`s, of other dicts and of other values. Values of tensors
    are read within the context.

  Raises:
    UsageError: It is not there, damaged, or another file.
  """
  path = os.fspath(path)
  if os.path.isdir(path):
    raise errors.UsageError(f'{path!r} is a folder, no file of weights')
  if not os.path.isfile(path):
    raise errors.UsageError(f'there is no file of weights {path!r}')
  with contextlib.ExitStack() as stack:
    with damage(path):
      file = stack.enter_context(open(path, 'rb'))
      content = _content(path, file, stack)
    if not isinstance(content, dict):
      raise errors.UsageError(f'{path} {_what(content)}')
    yield content


def _content(path: str, file: BinaryIO, stack: contextlib.ExitStack) -> Any:
  head = file.read(_HEAD)
  file.seek(0)
  if not head:
    raise errors.UsageError(f'{path} is empty: download or copy it again')
  if _header(head):
    return _safetensors(file)
  for start, what in _OTHERS:
    if re.match(start, head):
      raise errors.UsageError(f'{path} is {what}')
  if head.startswith(_ZIP):
    try:
      return stack.enter_context(torch_save.opened_zip(file))
    except KeyError as error:
      names = zipfile.ZipFile(file).namelist()
      raise errors.UsageError(
        f'{path} is a zip archive without what torch.save writes; it has '
        f'{shown(names)}: {_WANTED}'
      ) from error
  if head[257:262] == b'ustar':
    with tarfile.open(fileobj=file) as archive:
      names = archive.getnames()
    raise errors.UsageError(
      f'{path} is a tar archive, of {shown(names)}: unpack it, and give one of '
      'its files'
    )
  if _PICKLE.match(head):
    try:
      return stack.enter_context(torch_save.opened_stream(file))
    except KeyError as error:
      raise errors.UsageError(
        f'{path} is a pickle that torch.save did not write: {_WANTED}'
      ) from error
  raise errors.UsageError(f'{path} is no file of weights: {_WANTED}')


@contextlib.contextmanager
def damage(path: str) -> Iterator[None]:
  """Raises what reading a damaged file raises as a UsageError of one line."""
  try:
    yield
  except errors.UsageError:
    raise
  except PermissionError as error:
    raise errors.UsageError(f'{path} may not be read') from error
  # A damaged pickle or archive may make Python raise anything.
  except Exception as error:
    raise errors.UsageError(
      f'{path} is cut off or damaged ({os.path.getsize(path)} bytes): download '
      'or copy it again'
    ) from error


def _header(head: bytes) -> bool:
  """Returns whether a file begins as safetensors do: a length, then JSON."""
  return len(head) > 8 and head[8:9] == b'{' and head[6:8] == b'\0\0'


def _safetensors(file: BinaryIO) -> dict[str, Tensor]:
  tensors = {}
  for name, entry in safetensors.deserialize(file.read()):
    dtype = _DTYPES.get(entry['dtype'], entry['dtype'].lower())
    shape, data = tuple(entry['shape']), entry['data']

    def values(data=data, dtype=dtype, shape=shape) -> np.ndarray:
      kind = jnp.bfloat16 if dtype == 'bfloat16' else dtype
      return np.frombuffer(data, kind).reshape(shape)

    tensors[name] = Tensor(dtype, shape, values)
  return tensors


def _what(content: Any) -> str:
  """Returns what a file holds that is no dict, and what helps."""
  save = 'save its state_dict() alone with torch.save, where it was trained'
  name = kind(content)
  if not isinstance(content, torch_save.Inert):
    return f'holds a {name} and no state dict: {save}'
  if name.startswith('__torch__'):
    return f'holds a program of TorchScript ({name}): {save}'
  return f'holds a whole pickled model ({name}) and not its weights: {save}'


def kind(value: Any) -> str:
  """Returns the name of a value's class, with its module if it has one."""
  cls = type(value)
  if isinstance(value, Tensor):
    return 'tensor'
  if isinstance(value, torch_save.Inert):
    return errors.shown(f'{cls.__module__}.{cls.__name__}')
  return cls.__name__


def shown(names: Iterable[Any], most: int = 8) -> str:
  """Returns the first names, and how many more there are."""
  all_names = list(names)
  text = ', '.join(repr(name) for name in all_names[:most])
  more = len(all_names) - most
  return (text or 'nothing') + (f' and {more} more' if more > 0 else '')
