"""Conversion of PyTorch weights to Linen variables and back, all or none.

A file of weights is a '.safetensors', or was written by `torch.save`; both are
read without PyTorch, and neither can run code. It holds a state dict, bare or
under any key, and names may have the prefixes of wrappers (see `states`). Only
floating weights load, and only finite ones.
"""

from collections.abc import Callable, Mapping
import functools
import os
from typing import Any

from flax import traverse_util
import flax.linen as nn
import jax
import numpy as np

from kd_jax import errors
from kd_jax.models.pretrained import (
  contents,
  layouts_recent,
  states,
  torch_save,
)
from kd_jax.models.pretrained import layouts as layouts_lib

# By the name of a Linen variable, the name that PyTorch has for it.
LEAVES = {
  'kernel': 'weight',
  'bias': 'bias',
  'scale': 'weight',
  'mean': 'running_mean',
  'var': 'running_var',
}
SHOWN = 8  # entries of a kind that an error message lists


def load(
  network: nn.Module,
  path: str | os.PathLike[str],
  key: str = '',
  say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
  """Returns a network's variables from a file of PyTorch weights.

  Args:
    network: A network of `models.NETWORKS`, with as many classes as the
      weights.
    path: The path of the file; see the module's docstring.
    key: Where the weights stand in it: a key, or keys joined by dots; '' looks
      for them.
    say: A function that prints a line of what was taken and what was left.

  Returns:
    'params' and 'batch_stats', f32 on the host.

  Raises:
    UsageError: The file cannot be read, or does not fit the network. The
      message lists missing, unexpected and misshapen weights; nothing is
      loaded.
  """
  layouts = plans(network)
  names = [tuple(plan.values()) for plan in layouts.values()]
  with contents.opened(path) as content:
    try:
      state = states.choose(content, names, key)
    except errors.ArgumentError:
      raise
    except errors.UsageError as error:
      raise errors.UsageError(f'{os.fspath(path)}: {error}') from error
    check_dtypes(state, {name for plan in names for name in plan})
    with contents.damage(os.fspath(path)):
      variables = _converted_all(network, layouts, state.weights)
  for note in state.notes if say else ():
    say(note)  # type: ignore[misc]
  return variables


def convert(network: nn.Module, state: Mapping[str, np.ndarray]) -> dict:
  """Returns a network's variables from a state dict; see `load`.

  Convolutions [O,I,h,w] become [h,w,I,O], linear layers [O,I] become [I,O].
  """
  weights = {
    name: torch_save.Tensor(
      str(value.dtype), value.shape, functools.partial(np.asarray, value)
    )
    for name, value in state.items()
  }
  wrapped = states.State(weights, '', ())
  layouts = plans(network)
  check_dtypes(wrapped, {n for plan in layouts.values() for n in plan.values()})
  return _converted_all(network, layouts, weights)


def state_dict(
  network: nn.Module,
  variables: Mapping[tuple[str, ...], np.ndarray],
  layout: str = '',
) -> tuple[dict[str, np.ndarray], str]:
  """Returns a PyTorch state dict of a network's variables; inverts `convert`.

  Batches are not counted here, so that `num_batches_tracked` is missing;
  `load_state_dict` takes 0 for it where a state dict has no metadata.

  Args:
    network: A network of `models.NETWORKS`.
    variables: Its arrays by path, such as ('params', 'fc', 'kernel').
    layout: A part of the name of the layout, in small or large letters, such
      as 'timm'; '' is the network's first.

  Returns:
    The arrays by PyTorch's names, and the name of the layout.

  Raises:
    UsageError: The network has no such layout, or arrays are missing.
  """
  chosen, plan = _chosen(network, layout)
  missing = ['/'.join(path) for path in plan if path not in variables]
  _check(
    f'the weights are not all of {type(network).__name__}', missing=missing
  )
  ones = _sides_of_1(network, chosen, plan)
  arrays = {}
  for path, name in plan.items():
    value = _transposed(path, np.asarray(variables[path]), (3, 2, 0, 1))
    arrays[name] = value.reshape(value.shape + ones[name])
  copies = {name: states.copied(name) for name in arrays}
  arrays |= {copy: arrays[name] for name, copy in copies.items() if copy}
  arrays |= layouts_recent.buffers(network, plan.values())
  return arrays, chosen


def _chosen(
  network: nn.Module, layout: str
) -> tuple[str, dict[tuple[str, ...], str]]:
  """Returns the name and the plan of the first layout with a part in its name.

  Raises:
    UsageError: The network has no such layout.
  """
  known = plans(network)
  fitting = [name for name in known if layout.lower() in name.lower()]
  if not fitting:
    names = '; '.join(known)
    raise errors.ArgumentError(
      f'layout={layout!r}: {type(network).__name__} has the names of {names}'
    )
  return fitting[0], known[fitting[0]]


def check_dtypes(state: states.State, wanted: set[str]) -> None:
  """Raises UsageError if a weight of the wanted names is no float."""
  for name, tensor in state.weights.items():
    if name in wanted and tensor.dtype not in torch_save.FLOATS:
      raise errors.UsageError(
        f'{state.prefix}{name} is {tensor.dtype}, and only floating weights '
        f'load ({", ".join(torch_save.FLOATS)}): save the weights before they '
        'are quantised'
      )


def _converted_all(
  network: nn.Module,
  layouts: Mapping[str, dict[tuple[str, ...], str]],
  state: Mapping[str, torch_save.Tensor],
) -> dict:
  expected = traverse_util.flatten_dict(shapes(network))
  weights = {
    name: value for name, value in state.items() if not states.is_left_out(name)
  }
  layout = max(
    layouts, key=lambda key: len(weights.keys() & layouts[key].values())
  )
  plan = layouts[layout]
  shapes_there = _originals(plan, expected)
  misshapen = [
    f'{name} {weights[name].shape}, the network has {shape}'
    for name, shape in shapes_there.items()
    if name in weights and core(weights[name].shape) != core(shape)
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
    {
      path: converted(path, name, weights[name].values(), shapes_there[name])
      for path, name in plan.items()
    }
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
    layout: {path: named(path, namer) for path in paths}
    for layout, namer in namers.items()
  }


def originals(
  network: nn.Module, layout: str = ''
) -> dict[str, tuple[int, ...]]:
  """Returns the names and shapes of a PyTorch state dict for a network.

  Args:
    network: The network.
    layout: See `state_dict`.
  """
  expected = traverse_util.flatten_dict(shapes(network))
  chosen, plan = _chosen(network, layout)
  ones = _sides_of_1(network, chosen, plan)
  known = _originals(plan, expected)
  buffers = layouts_recent.buffers(network, plan.values())
  return {name: shape + ones[name] for name, shape in known.items()} | {
    name: value.shape for name, value in buffers.items()
  }


def _sides_of_1(
  network: nn.Module, layout: str, plan: Mapping[tuple[str, ...], str]
) -> dict[str, tuple[int, ...]]:
  """Returns by name the sides of 1 that end a shape in PyTorch alone."""
  return {
    name: (1,) * layouts_recent.sides_of_1(network, layout, '/'.join(path[1:]))
    for path, name in plan.items()
  }


def _originals(
  plan: dict[tuple[str, ...], str], wanted: dict[tuple[str, ...], Any]
) -> dict[str, tuple[int, ...]]:
  return {
    name: original(path, wanted[path].shape) for path, name in plan.items()
  }


def shapes(network: nn.Module) -> dict[str, Any]:
  """Returns the shapes of a network's variables.

  They do not depend on the size of the images, where any is allowed.
  """
  size = getattr(network, 'image_size', 64)
  image = jax.ShapeDtypeStruct((1, size, size, 3), np.float32)

  def init(image):
    variables = dict(network.init(jax.random.key(0), image, train=False))
    return {
      key: variables[key]
      for key in ('params', 'batch_stats')
      if key in variables
    }

  return jax.eval_shape(init, image)


def named(path: tuple[str, ...], namer: layouts_lib.Namer) -> str:
  """Returns PyTorch's name of a variable with its collection in its path."""
  _, *module, leaf = path
  if whole := namer('/'.join((*module, leaf))):
    return whole
  name = namer('/'.join(module))
  assert name, f'no rule names {path}'
  return f'{name}.{LEAVES[leaf]}'


def converted(
  path: tuple[str, ...], name: str, value: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
  """Returns a PyTorch weight as the variable of a path, f32.

  Args:
    path: The path, with its collection.
    name: PyTorch's name, for the message.
    value: The weight.
    shape: PyTorch's shape of the variable, which may differ by sides of 1.

  Raises:
    UsageError: A value is not finite.
  """
  with np.errstate(over='ignore'):
    value = np.asarray(value, np.float32).reshape(shape)
  if count := value.size - np.count_nonzero(np.isfinite(value)):
    raise errors.UsageError(
      f'{name} has {count} of {value.size} values that are no finite numbers '
      '(NaN or infinite): its training diverged, or the file is damaged'
    )
  return _transposed(path, value, (2, 3, 1, 0))


def _transposed(
  path: tuple[str, ...], value: np.ndarray, axes: tuple[int, ...]
) -> np.ndarray:
  """Returns a kernel with its axes in another order, and others as they are.

  Args:
    path: The path of the Linen variable.
    value: The array.
    axes: The order of the axes of a convolution; those of a linear layer are
      reversed.
  """
  if path[-1] != 'kernel':
    return value
  order = axes if value.ndim == 4 else tuple(range(value.ndim))[::-1]
  return np.ascontiguousarray(value.transpose(order))


def original(path: tuple[str, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
  """Returns the shape that a Linen variable of this shape has in PyTorch.

  Args:
    path: The variable's path.
    shape: Its shape in Linen.
  """
  if path[-1] != 'kernel':
    return shape
  if len(shape) == 4:
    return shape[3], shape[2], shape[0], shape[1]
  return shape[::-1]


def core(shape: tuple[int, ...]) -> tuple[int, ...]:
  """Returns a shape without the sides of 1 at its end.

  A dense layer [O,I] may be a 1x1 convolution [O,I,1,1] in PyTorch, and a
  factor of each channel [C] may be [C,1,1].
  """
  while shape and shape[-1] == 1:
    shape = shape[:-1]
  return shape


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
