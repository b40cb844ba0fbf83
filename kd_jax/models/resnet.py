"""ResNets for CIFAR and ImageNet.

A single class covers RepDistiller's CIFAR family (resnet8 .. resnet110,
resnet8x4, resnet32x4: three stages, 3x3 stem), SimKD's wide variants of it
(resnet14x2, resnet38x2, resnet38x4, which its tables call WRN-16-2, WRN-40-2,
WRN-40-4) and ResNet18 .. ResNet152 (four stages) with either stem:
RepDistiller's ResNet50 is 'resnet50' with stem='cifar'. Shortcuts are 1x1
convolutions with BatchNorm wherever the stride or the width changes. The stride
of a bottleneck is on its 3x3 convolution (torchvision's "v1.5").

Source: He et al., CVPR 2016; RepDistiller b84f547 (models/resnet.py,
resnetv2.py), SimKD 2b389c3 (models/resnet.py) and torchvision for widths,
initialisation and parameter counts.
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
  """A residual block, without the ReLU after the sum."""

  width: int
  stride: int
  bottleneck: bool
  norm: Callable[..., nn.Module]
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Returns [N,H/stride,W/stride,width] for x [N,H,W,C].

    A bottleneck returns 4*width channels.
    """
    conv = functools.partial(layers.Conv, dtype=self.dtype)
    # The channels, the kernel size and the stride of every convolution.
    plan: tuple[tuple[int, int, int], ...]
    if self.bottleneck:
      out = 4 * self.width
      plan = ((self.width, 1, 1), (self.width, 3, self.stride), (out, 1, 1))
    else:
      out = self.width
      plan = ((self.width, 3, self.stride), (out, 3, 1))
    y = x
    for i, (features, kernel, stride) in enumerate(plan, 1):
      convolution = conv(features, kernel, stride, name=f'conv{i}')
      y = layers.conv_bn(y, convolution, self.norm(name=f'bn{i}'), train=train)
      if i < len(plan):
        y = nn.relu(y)
    if self.stride != 1 or x.shape[-1] != out:
      convolution = conv(out, 1, self.stride, name='shortcut_conv')
      x = layers.conv_bn(
        x, convolution, self.norm(name='shortcut_bn'), train=train
      )
    return x + y


class ResNet(layers.Network):
  """A ResNet; see `layers.Network`.

  Attributes:
    stage_sizes: The number of blocks in every stage.
    widths: The channels of the stem, then of every stage. A bottleneck returns
      four times the channels of its stage.
    bottleneck: Whether a block has three convolutions instead of two.
    stem: The stem: 'cifar' is a 3x3 convolution; 'imagenet' is a 7x7
      convolution of stride 2 and a 3x3 max-pool of stride 2.
  """

  stage_sizes: tuple[int, ...]
  widths: tuple[int, ...]
  bottleneck: bool = False
  stem: Literal['cifar', 'imagenet'] = 'cifar'

  def __post_init__(self):
    """Raises UsageError if the fields contradict each other."""
    if len(self.widths) != len(self.stage_sizes) + 1:
      raise errors.ArgumentError(
        f'widths={self.widths}: a ResNet of {len(self.stage_sizes)} stages '
        f"needs {len(self.stage_sizes) + 1}, the stem's first"
      )
    layers.check_choice('stem', self.stem, ('cifar', 'imagenet'))
    super().__post_init__()

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
    """Returns the logits [N,K] f32 of normalised images [N,H,W,3]."""
    norm = self.norm
    kernel, stride = (7, 2) if self.stem == 'imagenet' else (3, 1)
    conv1 = layers.Conv(
      self.widths[0], kernel, stride, dtype=self.dtype, name='conv1'
    )
    x = layers.conv_bn(images, conv1, norm(name='bn1'), train=train)
    x = tap(self, 'stem', nn.relu(x))
    if self.stem == 'imagenet':
      # After a ReLU, padding with zeros is equivalent to padding with -inf,
      # and jax2onnx requires it.
      x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
      x = nn.max_pool(x, window_shape=(3, 3), strides=(2, 2))

    stages = zip(self.stage_sizes, self.widths[1:], strict=True)
    for i, (blocks, width) in enumerate(stages, 1):
      for j in range(blocks):
        pre = Block(
          width=width,
          stride=2 if i > 1 and j == 0 else 1,
          bottleneck=self.bottleneck,
          norm=norm,
          dtype=self.dtype,
          name=f'stage{i}_block{j + 1}',
        )(x, train=train)
        x = nn.relu(pre)
      tap(self, f'stage{i}_pre', pre)
      tap(self, f'stage{i}', x)
    return self.classify(x)


def _cifar(depth: int, widths: tuple[int, ...]) -> Callable[..., ResNet]:
  blocks = (depth - 2) // 6
  return functools.partial(ResNet, stage_sizes=(blocks,) * 3, widths=widths)


def _imagenet(bottleneck: bool, *sizes: int) -> Callable[..., ResNet]:
  return functools.partial(
    ResNet,
    stage_sizes=sizes,
    widths=(64, 64, 128, 256, 512),
    bottleneck=bottleneck,
    stem='imagenet',
  )


NETWORKS: dict[str, Callable[..., ResNet]] = {
  **{
    f'resnet{depth}': _cifar(depth, (16, 16, 32, 64))
    for depth in (8, 14, 20, 32, 38, 44, 56, 110)
  },
  'resnet14x2': _cifar(14, (16, 32, 64, 128)),
  'resnet38x2': _cifar(38, (16, 32, 64, 128)),
  'resnet8x4': _cifar(8, (32, 64, 128, 256)),
  'resnet32x4': _cifar(32, (32, 64, 128, 256)),
  'resnet38x4': _cifar(38, (32, 64, 128, 256)),
  'resnet18': _imagenet(False, 2, 2, 2, 2),
  'resnet34': _imagenet(False, 3, 4, 6, 3),
  'resnet50': _imagenet(True, 3, 4, 6, 3),
  'resnet101': _imagenet(True, 3, 4, 23, 3),
  'resnet152': _imagenet(True, 3, 8, 36, 3),
}
