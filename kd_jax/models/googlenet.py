"""GoogLeNet for small images, with BatchNorm and without auxiliary heads.

Source: Szegedy et al., CVPR 2015; FFSD d5cfda9 (models/googlenet_cifar.py).
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax.features import tap
from kd_jax.models import layers

# The channels of a block: the 1x1 branch; the 3x3 branch's first and second
# convolution; the 5x5 branch's first convolution and both of its 3x3
# convolutions; the pooled branch.
Row = tuple[int, int, int, int, int, int]


class Inception(nn.Module):
  """An Inception block of four branches, joined before their last ReLUs."""

  row: Row
  norm: Callable[..., nn.Module]
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Returns [N,H,W,C'] for x [N,H,W,C], with the branches' C' channels."""

    def conv(x: jax.Array, width: int, kernel: int, name: str) -> jax.Array:
      fan_in = kernel * kernel * x.shape[-1]
      convolution = layers.Conv(
        width,
        kernel,
        dtype=self.dtype,
        bias_init=layers.torch_bias_init(fan_in),
        name=f'conv{name}',
      )
      return layers.conv_bn(
        x, convolution, self.norm(name=f'bn{name}'), train=train
      )

    width_1x1, inner_3x3, width_3x3, inner_5x5, width_5x5, width_pool = self.row
    branch_3x3 = nn.relu(conv(x, inner_3x3, 1, '2a'))
    branch_5x5 = nn.relu(conv(x, inner_5x5, 1, '3a'))
    branch_5x5 = nn.relu(conv(branch_5x5, width_5x5, 3, '3b'))
    pooled = nn.max_pool(
      x, window_shape=(3, 3), strides=(1, 1), padding=((1, 1), (1, 1))
    )
    return jnp.concatenate(
      [
        conv(x, width_1x1, 1, '1'),
        conv(branch_3x3, width_3x3, 3, '2b'),
        conv(branch_5x5, width_5x5, 3, '3c'),
        conv(pooled, width_pool, 1, '4'),
      ],
      axis=-1,
    )


class GoogLeNet(layers.Network):
  """A GoogLeNet; see `layers.Network`.

  Attributes:
    width: The channels of the stem.
    stages: For every stage, the channels of its blocks; see `Row`.
  """

  width: int = 192
  stages: tuple[tuple[Row, ...], ...] = (
    ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    (
      (192, 96, 208, 16, 48, 64),
      (160, 112, 224, 24, 64, 64),
      (128, 128, 256, 24, 64, 64),
      (112, 144, 288, 32, 64, 64),
      (256, 160, 320, 32, 128, 128),
    ),
    ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
  )

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
    """Returns the logits [N,K] f32 of normalised images [N,H,W,3]."""
    conv1 = layers.Conv(
      self.width,
      3,
      dtype=self.dtype,
      bias_init=layers.torch_bias_init(27),
      name='conv1',
    )
    x = layers.conv_bn(images, conv1, self.norm(name='bn1'), train=train)
    x = tap(self, 'stem', nn.relu(x))
    for i, rows in enumerate(self.stages, 1):
      if i > 1:
        x = nn.max_pool(
          x, window_shape=(3, 3), strides=(2, 2), padding=((1, 1), (1, 1))
        )
      for j, row in enumerate(rows, 1):
        pre = Inception(
          row, self.norm, self.dtype, name=f'stage{i}_inception{j}'
        )(x, train=train)
        x = nn.relu(pre)
      tap(self, f'stage{i}_pre', pre)
      tap(self, f'stage{i}', x)
    return self.classify(x)


NETWORKS: dict[str, Callable[..., GoogLeNet]] = {'googlenet': GoogLeNet}
