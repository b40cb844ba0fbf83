"""Files as `torch.save` writes them, made without torch."""

import collections
import contextlib
import functools
import io
import itertools
import pickle
import struct
import sys
import types
import zipfile

import numpy as np

from kd_jax.models.pretrained import torch_save

STORAGES = {
  np.dtype(dtype): f'{name}Storage'
  for name, dtype in torch_save._STORAGES.items()
  if dtype in ('float64', 'float32', 'float16', 'int64', 'int8', 'uint8')
  and name != 'Untyped'
}


class Tensor:
  """Stands for a tensor in a content, as a network's state dict has it."""

  def __init__(self, values, quantised=False):
    self.values, self.quantised = np.asarray(values), quantised


def tensors(state):
  """A state dict of arrays, as one of tensors."""
  return collections.OrderedDict((k, Tensor(v)) for k, v in state.items())


@contextlib.contextmanager
def _torch():
  """Names of torch that a pickle can refer to."""
  names = ('torch', 'torch._utils')
  before = {name: sys.modules.get(name) for name in names}
  made = {name: types.ModuleType(name) for name in names}
  for function in ('_rebuild_tensor_v2', '_rebuild_qtensor'):
    stub = eval('lambda *args: None')
    stub.__module__, stub.__qualname__ = 'torch._utils', function
    stub.__name__ = function
    setattr(made['torch._utils'], function, stub)
  for name in (*STORAGES.values(), 'QInt8Storage'):
    setattr(made['torch'], name, type(name, (), {'__module__': 'torch'}))
  sys.modules.update(made)
  try:
    yield made
  finally:
    for name, module in before.items():
      sys.modules.pop(name)
      if module is not None:
        sys.modules[name] = module


class _Pid:
  """What a pickle refers to outside of it."""

  def __init__(self, value):
    self.value = value


def _pickled(content, made, storages):
  """The pickle of a content; it adds its storages."""

  class Pickler(pickle.Pickler):
    def persistent_id(self, value):
      return value.value if isinstance(value, _Pid) else None

    def reducer_override(self, value):
      if not isinstance(value, Tensor):
        return NotImplemented
      array, key = value.values, str(len(storages))
      storages[key] = array
      name = 'QInt8Storage' if value.quantised else STORAGES[array.dtype]
      kind = getattr(made['torch'], name)
      pid = _Pid(('storage', kind, key, 'cpu', array.size))
      strides = tuple(s // array.itemsize for s in array.strides)
      place = (pid, 0, array.shape, strides)
      more = (False, collections.OrderedDict())
      utils = made['torch._utils']
      if value.quantised:
        return utils._rebuild_qtensor, (*place, (0, 0.1, 0), *more)
      return utils._rebuild_tensor_v2, (*place, *more)

  file = io.BytesIO()
  Pickler(file, 2).dump(content)
  return file.getvalue()


def save(content, path):
  """Writes a content with `Tensor`s as torch 1.6 and newer do."""
  storages = {}
  with _torch() as made:
    pickled = _pickled(content, made, storages)
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('archive/data.pkl', pickled)
    archive.writestr('archive/byteorder', 'little')
    for key, array in storages.items():
      archive.writestr(f'archive/data/{key}', array.tobytes())
    archive.writestr('archive/version', '3\n')


def save_stream(content, path):
  """Writes a content as torch before 1.6 did."""
  storages = {}
  with _torch() as made:
    pickled = _pickled(content, made, storages)
  plain = functools.partial(pickle.dumps, protocol=2)
  system = {'protocol_version': 1001, 'little_endian': True}
  parts = [plain(torch_save.MAGIC), plain(1001), plain(system), pickled]
  parts.append(plain(list(storages)))
  numbers = [
    (struct.pack('<q', array.size), array.tobytes())
    for array in storages.values()
  ]
  with open(path, 'wb') as file:
    file.write(b''.join(itertools.chain(parts, *numbers)))
