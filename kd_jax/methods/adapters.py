"""Pieces of methods that two or more of them share."""

from typing import Literal

import flax.linen as nn
import jax

from kd_jax import errors
from kd_jax.models import layers


class Connector(nn.Module):
  """1x1 convolution without bias, then BatchNorm on batch statistics.

  Source: `build_feature_connector` of overhaul-distillation 76344a8.

  Attributes:
    bn_group_size: see `layers.BatchNorm.group_size`.
  """

  bn_group_size: int = 0

  @nn.compact
  def __call__(self, x: jax.Array, features: int) -> jax.Array:
    """Maps [N,h,w,c] to [N,h,w,features]."""
    x = layers.Conv(features, 1, name='conv')(x)
    norm = layers.BatchNorm(group_size=self.bn_group_size, name='bn')
    return norm(x, train=True)


Regression = Literal['down', 'up', 'valid']


def regression(
  height: int, width: int, to_height: int, to_width: int
) -> Regression | None:
  """How `ConvReg` brings one size to another; None where it cannot."""
  if (height, width) == (2 * to_height, 2 * to_width):
    return 'down'
  if (2 * height, 2 * width) == (to_height, to_width):
    return 'up'
  return 'valid' if height >= to_height and width >= to_width else None


class ConvReg(nn.Module):
  """A convolution to the size of another map, BatchNorm, ReLU.

  The size decides the convolution, which has a bias: equal sizes take a 1x1
  one; twice the size a 3x3 one of stride 2; half the size a transposed 4x4 one
  of stride 2; otherwise an unpadded one, whose kernel is 1 + the difference.

  Source: `ConvReg` of RepDistiller b84f547 (models/util.py).

  Attributes:
    relu: whether the ReLU is there (AB goes without).
    bn_group_size: see `layers.BatchNorm.group_size`.
  """

  relu: bool = True
  bn_group_size: int = 0

  @nn.compact
  def __call__(self, x: jax.Array, like: tuple[int, ...]) -> jax.Array:
    """Maps [N,h,w,c] to the shape `like` [N,H,W,C].

    Raises:
      UsageError: where the size fits no case; see `regression`.
    """
    (_, h, w, channels), (_, to_h, to_w, features) = x.shape, like
    how = regression(h, w, to_h, to_w)
    if how is None:
      raise errors.UsageError(
        f'a map of {h}x{w} cannot be brought to {to_h}x{to_w}: it must be '
        'exactly half as large, or as large, or larger'
      )
    if how == 'up':
      # torch takes a transposed kernel's fan-in from its output channels.
      init = layers.torch_bias_init(4 * 4 * features)
      x = layers.ConvTranspose(
        features,
        4,
        padding=1,
        kernel_init=init,
        bias_init=init,
        name='conv',
      )(x)
    else:
      down = how == 'down'
      kernel = (3, 3) if down else (1 + h - to_h, 1 + w - to_w)
      x = nn.Conv(
        features,
        kernel,
        (2, 2) if down else (1, 1),
        padding=((1, 1), (1, 1)) if down else 'VALID',
        kernel_init=layers.torch_init,
        bias_init=layers.torch_bias_init(kernel[0] * kernel[1] * channels),
        name='conv',
      )(x)
    norm = layers.BatchNorm(group_size=self.bn_group_size, name='bn')
    x = norm(x, train=True)
    return nn.relu(x) if self.relu else x
