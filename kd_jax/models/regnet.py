"""RegNetY: bottlenecks of grouped convolutions with squeeze-and-excitation.

Source: Radosavovic et al., "Designing Network Design Spaces", CVPR 2020;
torchvision (regnet.py), whose widths are those that the paper's rule gives;
timm (regnet.py) for names.
"""

from collections.abc import Callable
import functools
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax import errors
from kd_jax.features import tap
from kd_jax.models import layers


class Block(nn.Module):
  """A residual bottleneck, without the ReLU after the sum.

  Attributes:
    width: The channels of all three convolutions.
    stride: The stride of the 3x3 convolution.
    group_width: The channels of a group of the 3x3 convolution.
    norm: The constructor of a BatchNorm.
    dtype: The dtype of the computation.
  """

  width: int
  stride: int
  group_width: int
  norm: Callable[..., nn.Module]
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Returns [N,H/stride,W/stride,width] for x [N,H,W,C]."""

    def normalised(
      x: jax.Array,
      names: tuple[str, str],
      kernel: int,
      stride: int = 1,
      groups: int = 1,
    ) -> jax.Array:
      convolution = layers.Conv(
        self.width, kernel, stride, groups, dtype=self.dtype, name=names[0]
      )
      return layers.conv_bn(
        x, convolution, self.norm(name=names[1]), train=train
      )

    groups = self.width // self.group_width
    y = nn.relu(normalised(x, ('conv1', 'bn1'), 1))
    y = normalised(y, ('conv2', 'bn2'), 3, self.stride, groups)
    y = layers.SqueezeExcitation(
      round(x.shape[-1] / 4), nn.relu, nn.sigmoid, self.dtype, name='squeeze'
    )(nn.relu(y))
    y = normalised(y, ('conv3', 'bn3'), 1)
    if self.stride != 1 or x.shape[-1] != self.width:
      x = normalised(x, ('shortcut_conv', 'shortcut_bn'), 1, self.stride)
    return x + y


class RegNetY(layers.Network):
  """A RegNetY; see `layers.Network`.

  Attributes:
    stage_sizes: The number of blocks in every stage.
    widths: The channels of every stage.
    group_width: The channels of a group, which divides all widths.
    stem: The stem, a convolution of stride 2 for 'imagenet' and of stride 1 for
      'cifar'.
    stem_width: The channels of the stem.
  """

  stage_sizes: tuple[int, ...]
  widths: tuple[int, ...]
  group_width: int
  stem: Literal['cifar', 'imagenet'] = 'imagenet'
  stem_width: int = 32

  def __post_init__(self):
    """Raises UsageError if the fields contradict each other."""
    layers.check_choice('stem', self.stem, ('cifar', 'imagenet'))
    if len(self.widths) != len(self.stage_sizes):
      raise errors.ArgumentError(
        f'widths={self.widths}: a RegNet of {len(self.stage_sizes)} stages '
        f'needs {len(self.stage_sizes)}'
      )
    if any(width % self.group_width for width in self.widths):
      raise errors.ArgumentError(
        f'group_width={self.group_width}: it must divide all of the widths '
        f'{self.widths}'
      )
    super().__post_init__()

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
    """Returns the logits [N,K] f32 of normalised images [N,H,W,3]."""
    stride = 2 if self.stem == 'imagenet' else 1
    conv1 = layers.Conv(
      self.stem_width, 3, stride, dtype=self.dtype, name='conv1'
    )
    x = layers.conv_bn(images, conv1, self.norm(name='bn1'), train=train)
    x = tap(self, 'stem', nn.relu(x))
    plan = zip(self.stage_sizes, self.widths, strict=True)
    for i, (blocks, width) in enumerate(plan, 1):
      for j in range(1, blocks + 1):
        pre = Block(
          width,
          2 if j == 1 else 1,
          self.group_width,
          self.norm,
          self.dtype,
          name=f'stage{i}_block{j}',
        )(x, train=train)
        x = nn.relu(pre)
      tap(self, f'stage{i}_pre', pre)
      tap(self, f'stage{i}', x)
    return self.classify(x, layers.small_init, nn.initializers.zeros)


def _sized(
  stage_sizes: tuple[int, ...], widths: tuple[int, ...], group_width: int
) -> Callable[..., RegNetY]:
  return functools.partial(
    RegNetY, stage_sizes=stage_sizes, widths=widths, group_width=group_width
  )


NETWORKS: dict[str, Callable[..., RegNetY]] = {
  'regnety_400mf': _sized((1, 3, 6, 6), (48, 104, 208, 440), 8),
  'regnety_1_6gf': _sized((2, 6, 17, 2), (48, 120, 336, 888), 24),
  'regnety_16gf': _sized((2, 4, 11, 1), (224, 448, 1232, 3024), 112),
}
