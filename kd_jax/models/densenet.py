"""DenseNet for small images, without bottlenecks or compression.

Source: Huang et al., CVPR 2017; FFSD d5cfda9 (models/densenet_cifar.py).
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax import errors
from kd_jax.features import tap
from kd_jax.models import layers


class Layer(nn.Module):
  """A BatchNorm, a ReLU and a convolution, whose output joins the input."""

  growth: int
  norm: Callable[..., nn.Module]
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Returns [N,H,W,C+growth] for x [N,H,W,C]."""
    y = nn.relu(self.norm(name='bn1')(x, train=train))
    y = layers.Conv(self.growth, 3, dtype=self.dtype, name='conv1')(y)
    return jnp.concatenate([x, y], axis=-1)


class DenseNet(layers.Network):
  """A DenseNet of three stages; see `layers.Network`.

  The tap 'stage{i}' is the concatenated output of a stage's layers,
  'stage{i}_pre' the output of the BatchNorm after it, and 'stage3_post' the
  output of the last ReLU. FFSD reads stage1, stage2 and stage3_post.

  Attributes:
    depth: The depth, 3n+4, with n layers in every stage.
    growth: The channels that a layer adds; the stem has twice as many.
  """

  depth: int = 40
  growth: int = 12

  def __post_init__(self):
    """Raises UsageError if there is no such depth."""
    if self.depth < 7 or self.depth % 3 != 1:
      raise errors.ArgumentError(
        f'depth={self.depth}: a DenseNet has 3n+4, such as 40'
      )
    super().__post_init__()

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
    """Returns the logits [N,K] f32 of normalised images [N,H,W,3]."""
    x = layers.Conv(2 * self.growth, 3, dtype=self.dtype, name='conv1')(
      images.astype(self.dtype)
    )
    tap(self, 'stem', x)
    for i in (1, 2, 3):
      for j in range((self.depth - 4) // 3):
        x = Layer(
          self.growth, self.norm, self.dtype, name=f'stage{i}_layer{j + 1}'
        )(x, train=train)
      tap(self, f'stage{i}', x)
      name = f'transition{i}_bn' if i < 3 else 'bn_last'
      pre = tap(self, f'stage{i}_pre', self.norm(name=name)(x, train=train))
      if i < 3:
        x = layers.Conv(
          x.shape[-1], 1, dtype=self.dtype, name=f'transition{i}_conv'
        )(nn.relu(pre))
        x = nn.avg_pool(x, window_shape=(2, 2), strides=(2, 2))
    return self.classify(tap(self, 'stage3_post', nn.relu(pre)))


NETWORKS: dict[str, Callable[..., DenseNet]] = {'densenet40_12': DenseNet}
