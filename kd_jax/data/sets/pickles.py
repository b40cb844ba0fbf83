"""Pickled arrays, read without running the code that a pickle may hold."""

from collections.abc import Callable
import io
import pickle
import re
from typing import Any

import numpy as np

from kd_jax.runtime import unpickling


class _Dtype:
  """Stands for a dtype of whole numbers."""

  def __init__(self, name: str | bytes, *more: Any):
    del more  # how it is aligned and copied
    self.text = name.decode() if isinstance(name, bytes) else name
    self.order = '|'
    if not re.fullmatch('[ui][1248]', self.text):
      raise pickle.UnpicklingError(f'it has an array of {self.text!r}')

  def __setstate__(self, state: Any) -> None:
    """Takes the order of bytes: version, order, and what structures need."""
    order = state[1].decode() if isinstance(state[1], bytes) else state[1]
    self.order = order if order in ('<', '>') else '|'


class _Array:
  """Stands for an array while it is read; `value` is the array."""

  value: np.ndarray

  def __init__(self, *made_of: Any):
    del made_of  # an empty array of bytes, whose state comes afterwards

  def __setstate__(self, state: Any) -> None:
    """Takes the version, shape, dtype, whether columns are first, and bytes."""
    _, shape, dtype, by_column, content = state
    flat = np.frombuffer(
      content, np.dtype(dtype.text).newbyteorder(dtype.order)
    )
    self.value = flat.reshape(shape, order='F' if by_column else 'C')


class _Function:
  """A function that a pickle may call; it has no attributes to be changed."""

  __slots__ = ('_call',)

  def __init__(self, call: Callable[..., Any]):
    self._call = call

  def __call__(self, *args: Any) -> Any:
    """Calls the function."""
    return self._call(*args)

  def __setstate__(self, state: Any) -> None:
    """Keeps nothing."""


def _encoded(text: str, encoding: str) -> bytes:
  """Returns bytes, which old protocols write as text."""
  if encoding != 'latin1':
    raise pickle.UnpicklingError(f'it has text in {encoding}')
  return text.encode('latin1')


# What arrays are made of in a pickle: old and new paths of the same.
_MODULES = ('numpy', 'numpy.core.multiarray', 'numpy._core.multiarray')
_ARRAYS = {'_reconstruct': _Array, 'ndarray': _Array, 'dtype': _Dtype}
_FUNCTIONS = {(m, n): _ARRAYS[n] for m in _MODULES for n in _ARRAYS}
_FUNCTIONS['_codecs', 'encode'] = _encoded  # type: ignore[assignment]


class _Unpickler(unpickling.Unpickler):
  """An unpickler of plain containers, numbers, text and arrays."""

  def find_class(self, module: str, name: str) -> Any:
    """Returns what stands for a name that arrays need, and refuses all else.

    Raises:
      UnpicklingError: The pickle asks for anything else.
    """
    if (module, name) not in _FUNCTIONS:
      return super().find_class(module, name)
    return _Function(_FUNCTIONS[module, name])


def load(content: bytes) -> Any:
  """Returns what is pickled, with the text of Python 2 as bytes.

  Args:
    content: The pickle: an array, or plain values, or a dict of both.

  Raises:
    UnpicklingError: It needs more than plain containers, numbers, text and
      arrays of whole numbers. Damaged content raises other exceptions too.
  """
  loaded = _Unpickler(io.BytesIO(content), encoding='bytes').load()
  if isinstance(loaded, dict):
    return {
      key: value.value if isinstance(value, _Array) else value
      for key, value in loaded.items()
    }
  return loaded.value if isinstance(loaded, _Array) else loaded
