"""The types that networks, methods and the training step share."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax import errors

# A batch has 'image' [N,H,W,3] f32, 'label' [N] i32 or [N,K] f32, 'index'
# [N] i32 (the image's position in its split) and 'mask' [N] f32 (0 marks
# padding). Where a teacher's logits were computed beforehand, it also has them,
# [N,K] f32, under the key `known(teacher)`. Where the images are mixtures and
# the teachers are to see those before mixing, these are under `PLAIN`.
Batch = dict[str, jax.Array]
PLAIN = 'plain'
# The unweighted losses, [] f32, by the name of the term.
Terms = dict[str, jax.Array]


@jax.tree_util.register_pytree_with_keys_class
class Features(dict[str, Any]):
  """A dict of a network's features, which knows the network's name.

  It holds the network's taps by name, its 'logits' [N,K] f32 and its 'params'.
  An unknown tap raises an error that lists the taps that the network offers.

  Attributes:
    network: The name of the network.
  """

  def __init__(self, network: str, values: dict[str, Any]):
    super().__init__(values)
    self.network = network

  def __missing__(self, name: str) -> Any:
    taps = [key for key in self if key != 'params']
    raise errors.unknown(f'tap of network {self.network!r}:', name, taps)

  def tree_flatten_with_keys(self) -> tuple[Any, Any]:
    """Returns the values with their keys, and the static data to rebuild."""
    names = tuple(sorted(self))
    children = tuple(
      (jax.tree_util.DictKey(name), self[name]) for name in names
    )
    return children, (self.network, names)

  @classmethod
  def tree_unflatten(cls, static: Any, children: Any) -> 'Features':
    """Returns features rebuilt from what `tree_flatten_with_keys` returned."""
    network, names = static
    return cls(network, dict(zip(names, children, strict=True)))


def after_activation(taps: Mapping[str, Any], name: str) -> str:
  """Returns the tap that is a raw sum's map after its norm (and ReLU).

  A pre-activation network, such as a WideResNet, PyramidNet or DenseNet, has a
  BatchNorm and a ReLU behind its last stage, and a Swin a LayerNorm: 'stage3'
  or 'stage4' is the raw sum there.

  Args:
    taps: A network's taps, with shapes, by name.
    name: A tap.

  Returns:
    The tap, such as 'stage3_post'; '' if the map is no such raw sum.
  """
  post = f'{name}_post'
  is_raw = post in taps and taps[post].shape == taps[name].shape
  return post if is_raw else ''


def known(teacher: str) -> str:
  """Returns the key of a teacher's precomputed logits in a batch."""
  return f'logits/{teacher}'


# The features by the network's name: 'student', 'teacher', 'leader',
# 'student_0', ...
NetFeatures = dict[str, Features]


def tap(module: nn.Module, name: str, x: jax.Array) -> jax.Array:
  """Returns `x` unchanged after offering it to methods as a tap.

  Every network uses the same flat names: 'stem', 'stage1', ..., 'stage1_pre',
  ... (before the stage's last ReLU), 'pooled' and 'logits'. Under jit a tap
  that no method reads costs nothing.

  Args:
    module: The module that sows the tap.
    name: The name of the tap.
    x: The features, [N,...]; methods read them as f32.

  Returns:
    `x` itself, in its own dtype.
  """
  # `Module.sow` refuses a name that a layer has too, such as 'decoder'.
  if module.is_mutable_collection('intermediates'):
    module.put_variable('intermediates', name, x.astype(jnp.float32))
  return x
