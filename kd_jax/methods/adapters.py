"""Adapters that several methods share."""

from typing import Literal

import flax.linen as nn
import jax

from kd_jax import errors
from kd_jax.models import layers


class Connector(nn.Module):
  """A 1x1 convolution without bias, then BatchNorm on batch statistics.

  Attributes:
    bn_group_size: See `layers.BatchNorm.group_size`.

  Source: `build_feature_connector` of overhaul-distillation 76344a8.
  """

  bn_group_size: int = 0

  @nn.compact
  def __call__(self, x: jax.Array, features: int) -> jax.Array:
    """Maps x [N,h,w,c] f32 to [N,h,w,features] f32."""
    x = layers.Conv(features, 1, name='conv')(x)
    norm = layers.BatchNorm(group_size=self.bn_group_size, name='bn')
    return norm(x, train=True)


Regression = Literal['down', 'up', 'valid']


def regression(
  height: int, width: int, to_height: int, to_width: int
) -> Regression | None:
  """Returns the kind of convolution with which `ConvReg` changes a map's size.

  Args:
    height: The map's height.
    width: The map's width.
    to_height: The height of the result.
    to_width: The width of the result.

  Returns:
    'down' where the result is half as large, 'up' where it is twice as large,
    'valid' where it is otherwise not larger, and None where `ConvReg` cannot
    produce it.
  """
  if (height, width) == (2 * to_height, 2 * to_width):
    return 'down'
  if (2 * height, 2 * width) == (to_height, to_width):
    return 'up'
  return 'valid' if height >= to_height and width >= to_width else None


class ConvReg(nn.Module):
  """A convolution to the size of another map, then BatchNorm and ReLU.

  The sizes determine the convolution, which has a bias. It is 1x1 for equal
  sizes, 3x3 of stride 2 for a map twice as large as the other, and a
  transposed 4x4 convolution of stride 2 for a map half as large. Otherwise it
  is unpadded, and its kernel is 1 + the difference of the sizes.

  Attributes:
    relu: Whether the output passes through a ReLU; AB uses none.
    bn_group_size: See `layers.BatchNorm.group_size`.

  Source: `ConvReg` of RepDistiller b84f547 (models/util.py).
  """

  relu: bool = True
  bn_group_size: int = 0

  @nn.compact
  def __call__(self, x: jax.Array, like: tuple[int, ...]) -> jax.Array:
    """Returns the map in the shape `like`.

    Args:
      x: The map, [N,h,w,c] f32.
      like: The shape [N,H,W,C] of the other map.

    Returns:
      The result, [N,H,W,C] f32.

    Raises:
      UsageError: No convolution leads to that size; see `regression`.
    """
    (_, h, w, channels), (_, to_h, to_w, features) = x.shape, like
    kind = regression(h, w, to_h, to_w)
    if kind is None:
      raise errors.UsageError(
        f'a map of {h}x{w} cannot be brought to {to_h}x{to_w}: it must be '
        'exactly half as large, or as large, or larger'
      )
    if kind == 'up':
      # torch computes a transposed kernel's fan-in from its output channels.
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
      down = kind == 'down'
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
