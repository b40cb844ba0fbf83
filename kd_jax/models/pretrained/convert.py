"""Conversion of PyTorch weights to Linen variables, all of them or none.

A file of weights is a '.safetensors', which is read without torch, or was
written by `torch.save` and is read with `weights_only=True`, so that it runs no
code. It holds a state dict, bare or under 'model' or 'state_dict' as training
scripts save it. The prefixes of wrappers, such as 'module.', are removed.
"""

from collections.abc import Mapping
import os
import pickle
from typing import Any

from flax import traverse_util
import flax.linen as nn
import jax
import numpy as np

from kd_jax import errors
from kd_jax.models.pretrained import layouts as layouts_lib

State = dict[str, np.ndarray]

# By the name of a Linen variable, the name that PyTorch has for it.
LEAVES = {
  'kernel': 'weight',
  'bias': 'bias',
  'scale': 'weight',
  'mean': 'running_mean',
  'var': 'running_var',
}
# The prefixes that wrappers add to every name.
PREFIXES = ('module.', '_orig_mod.')
# The keys under which training scripts save the state dict.
INSIDE = ('model', 'state_dict')
SHOWN = 8  # entries of a kind that an error message lists


def load(network: nn.Module, path: str | os.PathLike[str]) -> dict[str, Any]:
  """Returns a network's variables from a file of PyTorch weights.

  Args:
    network: A network of `models.NETWORKS`, with as many classes as the
      weights.
    path: The path of the file; see the module's docstring.

  Returns:
    'params' and 'batch_stats', f32 on the host.

  Raises:
    UsageError: The file cannot be read, or does not fit the network. The
      message lists missing, unexpected and misshapen weights; nothing is
      loaded.
  """
  return convert(network, read(path))


def read(path: str | os.PathLike[str]) -> State:
  """Returns the state dict in a file of PyTorch weights, as f32.

  Raises:
    UsageError: The file does not exist, holds no state dict, or needs torch
      while torch is not installed.
  """
  path = os.fspath(path)
  if not os.path.isfile(path):
    raise errors.UsageError(f'there is no file of weights {path!r}')
  content = (
    _safetensors(path) if path.endswith('.safetensors') else _torch(path)
  )
  for key in INSIDE:
    if isinstance(content.get(key), Mapping):
      content = content[key]
  state = {
    name: np.asarray(value, np.float32)
    for name, value in content.items()
    if isinstance(value, np.ndarray)
  }
  if not state:
    raise errors.UsageError(
      f'{path} holds no state dict: its entries are '
      f'{", ".join(map(repr, list(content)[:SHOWN])) or "none"}; save the '
      "network's state_dict(), bare or under 'model' or 'state_dict'"
    )
  for prefix in PREFIXES:
    if all(name.startswith(prefix) for name in state):
      state = {name.removeprefix(prefix): x for name, x in state.items()}
  return state


def _safetensors(path: str) -> Mapping[str, Any]:
  import safetensors
  from safetensors import numpy

  try:
    return numpy.load_file(path)
  except safetensors.SafetensorError as error:
    raise errors.UsageError(f'cannot read {path}: {error}') from error


def _torch(path: str) -> Mapping[str, Any]:
  try:
    import torch
  except ModuleNotFoundError as error:
    raise errors.UsageError(
      f'{path} was written by torch.save, and torch is not installed: '
      "'pip install torch' (its CPU build will do), or save the weights where "
      'torch is with safetensors.torch.save_file'
    ) from error

  def plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
      return value.detach().float().numpy()
    if isinstance(value, Mapping):
      return {str(key): plain(entry) for key, entry in value.items()}
    return value

  try:
    content = torch.load(path, map_location='cpu', weights_only=True)
  except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
    raise errors.UsageError(
      f'cannot read {path} without running code of its own: '
      f'{str(error).splitlines()[0]}; save its state dict alone: '
      "torch.save(torch.load(file, weights_only=False)['model'], new_file), if "
      'you trust the file'
    ) from error
  if not isinstance(content, Mapping):
    raise errors.UsageError(
      f'{path} holds a {type(content).__name__}, no state dict'
    )
  return plain(content)


def convert(network: nn.Module, state: Mapping[str, np.ndarray]) -> dict:
  """Returns a network's variables from a state dict; see `load`.

  Convolutions [O,I,h,w] become [h,w,I,O], linear layers [O,I] become [I,O].
  """
  expected = traverse_util.flatten_dict(shapes(network))
  weights = {
    name: value
    for name, value in state.items()
    if not name.endswith('num_batches_tracked')
  }
  layouts = plans(network)
  layout = max(
    layouts, key=lambda key: len(weights.keys() & layouts[key].values())
  )
  plan = layouts[layout]
  misshapen = [
    f'{name} {weights[name].shape}, the network has {shape}'
    for name, shape in _originals(plan, expected).items()
    if name in weights and weights[name].shape != shape
  ]
  classes = getattr(network, 'num_classes', None)
  _check(
    f'the weights do not fit {type(network).__name__} with '
    f'num_classes={classes}, its layers named as in {layout}',
    missing=[name for name in plan.values() if name not in weights],
    unexpected=sorted(weights.keys() - plan.values()),
    misshapen=misshapen,
  )
  return traverse_util.unflatten_dict(
    {path: _converted(path, weights[name]) for path, name in plan.items()}
  )


def plans(network: nn.Module) -> dict[str, dict[tuple[str, ...], str]]:
  """Returns the PyTorch name of every variable of a network, by layout.

  Raises:
    UsageError: The network is not one of `kd_jax.models`.
  """
  namers = layouts_lib.layouts(network)
  if not namers:
    raise errors.UsageError(
      f'{type(network).__name__} has no names of PyTorch layers; weights are '
      'converted for the networks of kd_jax.models'
    )
  paths = traverse_util.flatten_dict(shapes(network))
  return {
    layout: {path: _name(path, namer) for path in paths}
    for layout, namer in namers.items()
  }


def originals(network: nn.Module) -> dict[str, tuple[int, ...]]:
  """Returns the names and shapes of a PyTorch state dict for a network.

  The names are those of the network's first layout.
  """
  expected = traverse_util.flatten_dict(shapes(network))
  return _originals(next(iter(plans(network).values())), expected)


def _originals(
  plan: dict[tuple[str, ...], str], wanted: dict[tuple[str, ...], Any]
) -> dict[str, tuple[int, ...]]:
  return {
    name: _original(path, wanted[path].shape) for path, name in plan.items()
  }


def shapes(network: nn.Module) -> dict[str, Any]:
  """Returns the shapes of a network's variables.

  They do not depend on the size of the images.
  """
  image = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)

  def init(image):
    variables = dict(network.init(jax.random.key(0), image, train=False))
    return {
      key: variables[key]
      for key in ('params', 'batch_stats')
      if key in variables
    }

  return jax.eval_shape(init, image)


def _name(path: tuple[str, ...], namer: layouts_lib.Namer) -> str:
  _, *module, leaf = path
  return f'{namer("/".join(module))}.{LEAVES[leaf]}'


def _converted(path: tuple[str, ...], value: np.ndarray) -> np.ndarray:
  if path[-1] != 'kernel':
    return np.asarray(value, np.float32)
  axes = (2, 3, 1, 0) if value.ndim == 4 else tuple(range(value.ndim))[::-1]
  return np.ascontiguousarray(value.transpose(axes), np.float32)


def _original(path: tuple[str, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
  """Returns the shape that a Linen variable of this shape has in PyTorch."""
  if path[-1] == 'kernel' and len(shape) == 4:
    return shape[3], shape[2], shape[0], shape[1]
  return shape[::-1]


def _check(what: str, **problems: list[str]) -> None:
  parts = []
  for kind, entries in problems.items():
    if entries:
      more = len(entries) - SHOWN
      parts.append(
        f'{len(entries)} {kind}: {", ".join(entries[:SHOWN])}'
        + (f' and {more} more' if more > 0 else '')
      )
  if parts:
    raise errors.UsageError(f'{what}: {"; ".join(parts)}')
