"""MobileNets V1 and V2.

Source: Howard et al., 2017, and Sandler et al., CVPR 2018;
overhaul-distillation 76344a8 (ImageNet/models/MobileNet.py, also mdistiller's),
RepDistiller b84f547 (models/mobilenetv2.py), torchvision (mobilenetv2.py).
"""

from collections.abc import Callable
import functools
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax.features import tap
from kd_jax.models import layers

Stem = Literal['cifar', 'imagenet']


class Separable(nn.Module):
  """A depthwise and a 1x1 convolution, without the last ReLU."""

  width: int
  stride: int
  norm: Callable[..., nn.Module]
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Returns [N,H/stride,W/stride,width] for x [N,H,W,C]."""
    conv = functools.partial(
      layers.Conv, dtype=self.dtype, kernel_init=layers.torch_init
    )
    channels = x.shape[-1]
    convolution = conv(channels, 3, self.stride, groups=channels, name='conv1')
    x = nn.relu(
      layers.conv_bn(x, convolution, self.norm(name='bn1'), train=train)
    )
    convolution = conv(self.width, 1, name='conv2')
    return layers.conv_bn(x, convolution, self.norm(name='bn2'), train=train)


class MobileNetV1(layers.Network):
  """A MobileNetV1; see `layers.Network`.

  Attributes:
    width: The factor of all channels.
    stem: The stem, a convolution of stride 2 for 'imagenet' and of stride 1 for
      'cifar'.
    stages: For every stage, the channels at width 1 and the stride of its
      blocks. A stage ends where the released code taps it.
  """

  width: float = 1.0
  stem: Stem = 'imagenet'
  stages: tuple[tuple[tuple[int, int], ...], ...] = (
    ((64, 1), (128, 2), (128, 1)),
    ((256, 2), (256, 1)),
    ((512, 2), *(((512, 1),) * 5)),
    ((1024, 2), (1024, 1)),
  )

  def __post_init__(self):
    """Raises UsageError if the stem is unknown."""
    layers.check_choice('stem', self.stem, ('cifar', 'imagenet'))
    super().__post_init__()

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
    """Returns the logits [N,K] f32 of normalised images [N,H,W,3]."""
    conv1 = layers.Conv(
      int(32 * self.width),
      3,
      2 if self.stem == 'imagenet' else 1,
      dtype=self.dtype,
      kernel_init=layers.torch_init,
      name='conv1',
    )
    x = layers.conv_bn(images, conv1, self.norm(name='bn1'), train=train)
    x = tap(self, 'stem', nn.relu(x))
    for i, blocks in enumerate(self.stages, 1):
      for j, (width, stride) in enumerate(blocks, 1):
        pre = Separable(
          width=int(width * self.width),
          stride=stride,
          norm=self.norm,
          dtype=self.dtype,
          name=f'stage{i}_block{j}',
        )(x, train=train)
        x = nn.relu(pre)
      tap(self, f'stage{i}_pre', pre)
      tap(self, f'stage{i}', x)
    return self.classify(x)


Padding = Literal['depthwise', 'block']
# A row of the paper's table 2: expansion, channels, blocks, stride.
Row = tuple[int, int, int, int]


class Inverted(nn.Module):
  """An inverted residual block: a 1x1, a depthwise and a 1x1 convolution.

  No ReLU follows the last convolution.

  Attributes:
    width: The channels of the result.
    stride: The stride of the depthwise convolution.
    expansion: The factor of the channels within the block.
    expand: Whether there is the first 1x1 convolution.
    act: The activation.
    norm: The constructor of a BatchNorm.
    dtype: The dtype of the computation.
    dilation: The dilation of the depthwise convolution.
    padding: What is padded with zeros: 'depthwise' the input of the depthwise
      convolution, 'block' that of the block, so that the border of the expanded
      map is what the first BatchNorm makes of 0.
    kernel_init: Initialises the kernels.
  """

  width: int
  stride: int
  expansion: int
  expand: bool
  act: Callable[[jax.Array], jax.Array]
  norm: Callable[..., nn.Module]
  dtype: jnp.dtype
  dilation: int = 1
  padding: Padding = 'depthwise'
  kernel_init: nn.initializers.Initializer = layers.conv_init

  @nn.compact
  def __call__(
    self, x: jax.Array, *, train: bool, only_expanded: bool = False
  ) -> jax.Array:
    """Returns [N,H/stride,W/stride,width] for x [N,H,W,C].

    Args:
      x: The input.
      train: Whether the network trains.
      only_expanded: Whether to return what the first 1x1 convolution and its
        BatchNorm make of x, without any padding, [N,H,W,expansion*C]. Its batch
        statistics are its own, and do not move the running ones.
    """
    conv = functools.partial(
      layers.Conv, dtype=self.dtype, kernel_init=self.kernel_init
    )
    y, inner = x, self.expansion * x.shape[-1]
    padded = self.padding == 'block' and not only_expanded
    if padded:
      sides = (self.dilation,) * 2
      y = jnp.pad(y, ((0, 0), sides, sides, (0, 0)))
    if self.expand:
      norm = self.norm(name='bn1')
      convolution = conv(inner, 1, name='conv1')
      moves = not only_expanded
      y = norm(y, train=train, after=convolution, moves=moves)
      if only_expanded:
        return y
      y = self.act(y)
    convolution = conv(
      inner,
      3,
      self.stride,
      groups=inner,
      dilation=self.dilation,
      padding=0 if padded else None,
      name='conv2',
    )
    y = self.act(
      layers.conv_bn(y, convolution, self.norm(name='bn2'), train=train)
    )
    convolution = conv(self.width, 1, name='conv3')
    y = layers.conv_bn(y, convolution, self.norm(name='bn3'), train=train)
    return x + y if x.shape == y.shape and self.stride == 1 else y


def trunk(
  images: jax.Array,
  stem_width: int,
  stages: tuple[tuple[Row, ...], ...],
  output_stride: int,
  padding: Padding,
  norm: Callable[..., nn.Module],
  dtype: jnp.dtype,
  *,
  train: bool,
) -> dict[str, jax.Array]:
  """Returns the maps of a MobileNetV2 as a DeepLab's backbone.

  It makes its layers in the module in whose compact method it is called.

  Args:
    images: Normalised images, [N,H,W,3] f32.
    stem_width: The channels of the first convolution.
    stages: The rows of every stage; see `MobileNetV2`.
    output_stride: The largest stride of a map. A row of stride 2 that would
      exceed it has the stride 1, and the rows after it twice the dilation.
    padding: See `Inverted`.
    norm: The constructor of a BatchNorm.
    dtype: The dtype of the computation.
    train: Whether the network trains.

  Returns:
    'stem', and 'stage{i}_pre' and 'stage{i}' of every stage, [N,h,w,C] each.
    The pre map of a stage is what the next stage's first block expands it to,
    before the ReLU6; that of the last is the stage itself.

  Source: overhaul-distillation 76344a8 (Segmentation, mobilenet.py). There the
  BatchNorms that give the pre maps move their running statistics twice a step.
  """
  conv1 = layers.Conv(
    stem_width, 3, 2, dtype=dtype, kernel_init=layers.he_init, name='conv1'
  )
  x = layers.conv_bn(images, conv1, norm(name='bn1'), train=train)
  maps = {'stem': (x := nn.relu6(x))}
  for i, blocks in enumerate(_dilated(stages, output_stride), 1):
    for number, (expansion, width, stride, dilation) in enumerate(blocks, 1):
      block = Inverted(
        width=width,
        stride=stride,
        expansion=expansion,
        expand=expansion != 1,
        act=nn.relu6,
        norm=norm,
        dtype=dtype,
        dilation=dilation,
        padding=padding,
        kernel_init=layers.he_init,
        name=f'stage{i}_block{number}',
      )
      y = block(x, train=train)
      if i > 1 and number == 1:
        pre = block(x, train=train, only_expanded=True)
        maps |= {f'stage{i - 1}_pre': pre, f'stage{i - 1}': x}
      x = y
  last = len(stages)
  return {**maps, f'stage{last}_pre': x, f'stage{last}': x}


def _dilated(
  stages: tuple[tuple[Row, ...], ...], output_stride: int
) -> list[list[tuple[int, int, int, int]]]:
  """Returns expansion, channels, stride and dilation of each stage's blocks."""
  total, later, found = 2, 1, []
  for rows in stages:
    blocks: list[tuple[int, int, int, int]] = []
    for expansion, width, count, stride in rows:
      dilation = 1
      if total == output_stride:
        stride, dilation, later = 1, later, later * stride
      total *= stride
      for j in range(count):
        blocks.append((expansion, width, 1 if j else stride, dilation))
    found.append(blocks)
  return found


class MobileNetV2(layers.Network):
  """A MobileNetV2; see `layers.Network`.

  Blocks end without a ReLU, so that 'stage{i}_pre' equals 'stage{i}'. The tap
  'stage4_post' is the output of the last 1x1 convolution's ReLU, which is
  pooled.

  Attributes:
    width: The factor of all channels. A factor below 1 does not reduce the
      channels of the last map.
    stem: The variant. 'cifar' is RepDistiller's: strides for 32 pixels, ReLU,
      channels rounded down, an expansion in the first block too. 'imagenet' is
      torchvision's without its dropout: ReLU6, channels a multiple of 8.
    stages: The rows of the paper's table 2, (expansion, channels, blocks,
      stride), in stages that end where RepDistiller taps them. With the stem
      'cifar', stage 1 has stride 1.
  """

  width: float = 1.0
  stem: Stem = 'imagenet'
  stages: tuple[tuple[Row, ...], ...] = (
    ((1, 16, 1, 1), (6, 24, 2, 2)),
    ((6, 32, 3, 2),),
    ((6, 64, 4, 2), (6, 96, 3, 1)),
    ((6, 160, 3, 2), (6, 320, 1, 1)),
  )

  def __post_init__(self):
    """Raises UsageError if the stem is unknown."""
    layers.check_choice('stem', self.stem, ('cifar', 'imagenet'))
    super().__post_init__()

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
    """Returns the logits [N,K] f32 of normalised images [N,H,W,3]."""
    cifar = self.stem == 'cifar'
    act = nn.relu if cifar else nn.relu6
    conv = functools.partial(layers.Conv, dtype=self.dtype)
    conv1 = conv(self.channels(32), 3, 2, name='conv1')
    x = layers.conv_bn(images, conv1, self.norm(name='bn1'), train=train)
    x = tap(self, 'stem', act(x))
    for i, rows in enumerate(self.stages, 1):
      number = 0
      for expansion, width, blocks, stride in rows:
        if cifar and i == 1:
          stride = 1
        for j in range(blocks):
          number += 1
          x = Inverted(
            width=self.channels(width),
            stride=1 if j else stride,
            expansion=expansion,
            expand=cifar or expansion != 1,
            act=act,
            norm=self.norm,
            dtype=self.dtype,
            name=f'stage{i}_block{number}',
          )(x, train=train)
      tap(self, f'stage{i}_pre', x)
      tap(self, f'stage{i}', x)
    last_width = self.channels(1280) if self.width > 1 else 1280
    conv2 = conv(last_width, 1, name='conv2')
    x = act(layers.conv_bn(x, conv2, self.norm(name='bn2'), train=train))
    tap(self, f'stage{len(self.stages)}_post', x)
    return self.classify(x, layers.small_init, nn.initializers.zeros)

  def channels(self, full: int) -> int:
    """Returns the channels of a layer that has `full` channels at width 1."""
    scaled = full * self.width
    if self.stem == 'cifar':
      return int(scaled)
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded


NETWORKS: dict[str, Callable[..., nn.Module]] = {
  'mobilenetv1': MobileNetV1,
  'mobilenetv2': functools.partial(MobileNetV2, width=0.5, stem='cifar'),
  'mobilenetv2_imagenet': MobileNetV2,
}
