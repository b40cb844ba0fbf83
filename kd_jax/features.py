"""The words that networks, methods and the step share."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax import errors

# 'image' [N,H,W,3] f32, 'label' [N] i32 or [N,K] f32, 'index' [N] i32 (the
# image's position in its split), 'mask' [N] f32 (0 marks padding), and
# `known(teacher)` [N,K] f32 where a teacher's logits were computed beforehand.
Batch = dict[str, jax.Array]
# Unweighted losses [] f32, by name.
Terms = dict[str, jax.Array]


@jax.tree_util.register_pytree_with_keys_class
class Features(dict[str, Any]):
  """One network's taps by name, its 'logits' [N,K] and its 'params'.

  A plain dict that knows whose features it holds, so that a wrong tap name
  ends in an error that says what the network offers.
  """

  def __init__(self, network: str, values: dict[str, Any]):
    super().__init__(values)
    self.network = network

  def __missing__(self, name: str) -> Any:
    taps = [key for key in self if key != 'params']
    raise errors.unknown(f'tap of network {self.network!r}:', name, taps)

  def tree_flatten_with_keys(self) -> tuple[Any, Any]:
    """Children with their keys, and what rebuilds the container."""
    names = tuple(sorted(self))
    children = tuple((jax.tree_util.DictKey(n), self[n]) for n in names)
    return children, (self.network, names)

  @classmethod
  def tree_unflatten(cls, static: Any, children: Any) -> 'Features':
    """The inverse of `tree_flatten_with_keys`."""
    network, names = static
    return cls(network, dict(zip(names, children, strict=True)))


def known(teacher: str) -> str:
  """The key of a teacher's logits in a batch."""
  return f'logits/{teacher}'


# By network name: 'student', 'teacher', 'leader', 'student_0', ...
NetFeatures = dict[str, Features]


def tap(module: nn.Module, name: str, x: jax.Array) -> jax.Array:
  """Offers `x` to methods under `name`, in float32, and returns `x` itself.

  Names are flat and the same for every network: 'stem', 'stage1'..,
  'stage1_pre'.. (before the stage's last ReLU), 'pooled', 'logits'. Under jit
  a tap that no method reads costs nothing.
  """
  module.sow(
    'intermediates',
    name,
    x.astype(jnp.float32),
    init_fn=lambda: None,
    reduce_fn=lambda _, new: new,
  )
  return x
