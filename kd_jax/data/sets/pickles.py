"""Pickled arrays, read without running the code that a pickle may hold."""

import io
import pickle
from typing import Any

import numpy as np


def _dtype(name: str | bytes, align: int = 0, copy: int = 1) -> np.dtype[Any]:
  """Returns a dtype by its name; old pickles have numbers for booleans."""
  text = name.decode() if isinstance(name, bytes) else name
  return np.dtype(text, align=bool(align), copy=bool(copy))


# What NumPy's arrays are made of in a pickle: old and new paths of the same.
_ARRAYS: dict[str, Any] = {
  '_reconstruct': np.zeros(0).__reduce__()[0],
  'ndarray': np.ndarray,
  'dtype': _dtype,
}
_MODULES = ('numpy', 'numpy.core.multiarray', 'numpy._core.multiarray')


class _Unpickler(pickle.Unpickler):
  """An unpickler of plain containers, numbers, text and arrays."""

  def find_class(self, module: str, name: str) -> Any:
    """Returns what arrays are made of, and refuses all else.

    Raises:
      UnpicklingError: The pickle asks for anything else.
    """
    if module in _MODULES and name in _ARRAYS:
      return _ARRAYS[name]
    if (module, name) == ('_codecs', 'encode'):
      return _encoded
    raise pickle.UnpicklingError(f'it asks for {module}.{name}')


def _encoded(text: str, encoding: str) -> bytes:
  """Returns bytes, which old protocols write as text."""
  if encoding != 'latin1':
    raise pickle.UnpicklingError(f'it has text in {encoding}')
  return text.encode('latin1')


def load(content: bytes) -> Any:
  """Returns what is pickled, with the text of Python 2 as bytes.

  Args:
    content: The pickle.

  Raises:
    UnpicklingError: It needs more than plain containers, numbers, text and
      arrays. Damaged content raises other exceptions too.
  """
  return _Unpickler(io.BytesIO(content), encoding='bytes').load()
