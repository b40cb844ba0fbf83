"""MobileNetV3 and EfficientNet: inverted blocks with squeeze-and-excitation.

Source: Howard et al., "Searching for MobileNetV3", ICCV 2019; Tan and Le,
"EfficientNet: Rethinking Model Scaling", ICML 2019; torchvision
(mobilenetv3.py, efficientnet.py), whose dropout before the classifier is left
out; timm (efficientnet.py) for names.
"""

from collections.abc import Callable
import functools
import math
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax.features import tap
from kd_jax.models import layers

Stem = Literal['cifar', 'imagenet']
ACTS: dict[str, Callable[[jax.Array], jax.Array]] = {
  'relu': nn.relu,
  'hardswish': nn.hard_swish,
  'silu': nn.silu,
}


class Plan(NamedTuple):
  """What a block is made of.

  Attributes:
    channels: The channels of its input.
    inner: The channels of the depthwise convolution.
    width: The channels of its result.
    kernel: The side of the depthwise kernel, in pixels.
    stride: The stride of the depthwise convolution.
    squeezed: The channels within the squeeze-and-excitation; 0 leaves it out.
    act: The activation, of `ACTS`.
  """

  channels: int
  inner: int
  width: int
  kernel: int
  stride: int
  squeezed: int
  act: str

  @property
  def expands(self) -> bool:
    """Whether there is the first 1x1 convolution."""
    return self.inner != self.channels


class Inverted(nn.Module):
  """An inverted residual block, without an activation at its end.

  Attributes:
    plan: What it is made of.
    squeeze_act: The activation within the squeeze-and-excitation.
    gate: See `layers.SqueezeExcitation`.
    drop_path: The rate of stochastic depth; see `layers.drop_path`.
    norm: The constructor of a BatchNorm.
    dtype: The dtype of the computation.
  """

  plan: Plan
  squeeze_act: Callable[[jax.Array], jax.Array]
  gate: Callable[[jax.Array], jax.Array]
  drop_path: float
  norm: Callable[..., nn.Module]
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Returns [N,H/stride,W/stride,width] for x [N,H,W,C]."""
    plan, act = self.plan, ACTS[self.plan.act]

    def normalised(
      x: jax.Array,
      number: int,
      features: int,
      kernel: int,
      stride: int = 1,
      groups: int = 1,
    ) -> jax.Array:
      convolution = layers.Conv(
        features, kernel, stride, groups, dtype=self.dtype, name=f'conv{number}'
      )
      norm = self.norm(name=f'bn{number}')
      return layers.conv_bn(x, convolution, norm, train=train)

    y = x
    if plan.expands:
      y = act(normalised(y, 1, plan.inner, 1))
    sizes = plan.inner, plan.kernel, plan.stride, plan.inner
    y = act(normalised(y, 2, *sizes))
    if plan.squeezed:
      y = layers.SqueezeExcitation(
        plan.squeezed,
        self.squeeze_act,
        self.gate,
        self.dtype,
        nn.initializers.zeros,
        name='squeeze',
      )(y)
    y = normalised(y, 3, plan.width, 1)
    if plan.stride != 1 or plan.channels != plan.width:
      return y
    return x + layers.drop_path(y, self.drop_path, train=train)


class InvertedNetwork(layers.Network):
  """The base of the networks of inverted blocks; see `layers.Network`.

  Blocks end without an activation, so that 'stage{i}_pre' equals 'stage{i}'.
  The tap 'stage{i}_post' of the last stage is the output of the last 1x1
  convolution's activation, which is pooled.

  Attributes:
    stem: The stem, a convolution of stride 2 for 'imagenet' and of stride 1 for
      'cifar'.
    stem_width: The channels of the stem.
    last_width: The channels of the last 1x1 convolution.
    drop_path: The rate of stochastic depth that the block after the last would
      have; the first has 0.
  """

  stem: Stem = 'imagenet'
  stem_width: int = 32
  last_width: int = 1280
  drop_path: float = 0.0

  def __post_init__(self):
    """Raises UsageError if the stem is unknown."""
    layers.check_choice('stem', self.stem, ('cifar', 'imagenet'))
    super().__post_init__()

  def plans(self) -> list[list[Plan]]:
    """Returns what the blocks of each stage are made of."""
    raise NotImplementedError

  def maps(
    self,
    images: jax.Array,
    act: Callable[[jax.Array], jax.Array],
    squeeze_act: Callable[[jax.Array], jax.Array],
    gate: Callable[[jax.Array], jax.Array],
    norm: Callable[..., nn.Module],
    *,
    train: bool,
  ) -> jax.Array:
    """Makes all layers before the pooling, and taps the maps.

    Args:
      images: Normalised images, [N,H,W,3].
      act: The activation of the stem and of the last convolution.
      squeeze_act: See `Inverted`.
      gate: See `Inverted`.
      norm: The constructor of a BatchNorm.
      train: Whether the network trains.

    Returns:
      The map that is pooled, [N,h,w,last_width].
    """
    stride = 2 if self.stem == 'imagenet' else 1
    conv1 = layers.Conv(
      self.stem_width, 3, stride, dtype=self.dtype, name='conv1'
    )
    x = layers.conv_bn(images, conv1, norm(name='bn1'), train=train)
    x = tap(self, 'stem', act(x))
    stages = self.plans()
    count, number = sum(map(len, stages)), 0
    for i, plans in enumerate(stages, 1):
      for j, plan in enumerate(plans, 1):
        rate = self.drop_path * number / count
        x = Inverted(
          plan,
          squeeze_act,
          gate,
          rate,
          norm,
          self.dtype,
          name=f'stage{i}_block{j}',
        )(x, train=train)
        number += 1
      tap(self, f'stage{i}', tap(self, f'stage{i}_pre', x))
    conv2 = layers.Conv(self.last_width, 1, dtype=self.dtype, name='conv2')
    x = act(layers.conv_bn(x, conv2, norm(name='bn2'), train=train))
    return tap(self, f'stage{len(stages)}_post', x)


# A row of MobileNetV3's tables 1 and 2: kernel, inner channels, channels,
# whether there is a squeeze-and-excitation (0 or 1), activation, stride.
Row = tuple[int, int, int, int, str, int]


class MobileNetV3(InvertedNetwork):
  """A MobileNetV3; see `InvertedNetwork`.

  'pooled' is the hidden layer before the classifier.

  Attributes:
    blocks: The rows of the blocks, in stages that end with the maps' sides.
    hidden: The channels of the hidden layer.
  """

  blocks: tuple[tuple[Row, ...], ...] = ()
  stem_width: int = 16
  last_width: int = 960
  hidden: int = 1280

  def plans(self) -> list[list[Plan]]:
    """Returns what the blocks of each stage are made of."""
    channels, stages = self.stem_width, []
    for rows in self.blocks:
      plans = []
      for kernel, inner, width, squeezed, act, stride in rows:
        squeezed = squeezed and _multiple_of_8(inner // 4)
        plans.append(
          Plan(channels, inner, width, kernel, stride, squeezed, act)
        )
        channels = width
      stages.append(plans)
    return stages

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
    """Returns the logits [N,K] f32 of normalised images [N,H,W,3]."""
    norm = functools.partial(self.norm, momentum=0.99, epsilon=1e-3)
    act = nn.hard_swish
    x = self.maps(images, act, nn.relu, nn.hard_sigmoid, norm, train=train)
    x = layers.Linear(
      self.hidden,
      self.dtype,
      layers.small_init,
      nn.initializers.zeros,
      name='hidden',
    )(x.astype(jnp.float32).mean(axis=(1, 2)))
    return self.classify(act(x), layers.small_init, nn.initializers.zeros)


def _multiple_of_8(channels: int) -> int:
  """Returns a multiple of 8 that is not below 90% of `channels`."""
  rounded = max(8, (channels + 4) // 8 * 8)
  return rounded + 8 if rounded < 0.9 * channels else rounded


# Uniform in +-1/sqrt(K).
_classifier_init = nn.initializers.variance_scaling(1 / 3, 'fan_out', 'uniform')


class EfficientNet(InvertedNetwork):
  """An EfficientNet; see `InvertedNetwork`.

  Attributes:
    stages: Rows (expansion, channels, blocks, stride, kernel), in stages that
      end with the maps' sides.
    native_size: The pixels of the images that it is designed for; others are
      taken too.
  """

  stages: tuple[tuple[tuple[int, int, int, int, int], ...], ...] = ()
  native_size: int = 224

  def plans(self) -> list[list[Plan]]:
    """Returns what the blocks of each stage are made of."""
    channels, stages = self.stem_width, []
    for rows in self.stages:
      plans = []
      for expansion, width, blocks, stride, kernel in rows:
        for j in range(blocks):
          plans.append(
            Plan(
              channels,
              expansion * channels,
              width,
              kernel,
              1 if j else stride,
              max(1, channels // 4),
              'silu',
            )
          )
          channels = width
      stages.append(plans)
    return stages

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
    """Returns the logits [N,K] f32 of normalised images [N,H,W,3]."""
    silu, gate = nn.silu, nn.sigmoid
    x = self.maps(images, silu, silu, gate, self.norm, train=train)
    return self.classify(x, _classifier_init, nn.initializers.zeros)


_SMALL: tuple[tuple[Row, ...], ...] = (
  ((3, 16, 16, 1, 'relu', 2),),
  ((3, 72, 24, 0, 'relu', 2), (3, 88, 24, 0, 'relu', 1)),
  (
    (5, 96, 40, 1, 'hardswish', 2),
    *((5, 240, 40, 1, 'hardswish', 1),) * 2,
    (5, 120, 48, 1, 'hardswish', 1),
    (5, 144, 48, 1, 'hardswish', 1),
  ),
  (
    (5, 288, 96, 1, 'hardswish', 2),
    *((5, 576, 96, 1, 'hardswish', 1),) * 2,
  ),
)
_LARGE: tuple[tuple[Row, ...], ...] = (
  (
    (3, 16, 16, 0, 'relu', 1),
    (3, 64, 24, 0, 'relu', 2),
    (3, 72, 24, 0, 'relu', 1),
  ),
  ((5, 72, 40, 1, 'relu', 2), *((5, 120, 40, 1, 'relu', 1),) * 2),
  (
    (3, 240, 80, 0, 'hardswish', 2),
    (3, 200, 80, 0, 'hardswish', 1),
    *((3, 184, 80, 0, 'hardswish', 1),) * 2,
    (3, 480, 112, 1, 'hardswish', 1),
    (3, 672, 112, 1, 'hardswish', 1),
  ),
  (
    (5, 672, 160, 1, 'hardswish', 2),
    *((5, 960, 160, 1, 'hardswish', 1),) * 2,
  ),
)


def _deep(factor: float, size: int) -> Callable[..., EfficientNet]:
  """Returns an EfficientNet of the widths of B0.

  Args:
    factor: The factor of the number of blocks.
    size: The pixels of its images.
  """
  rows = (
    ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3)),
    ((6, 40, 2, 2, 5),),
    ((6, 80, 3, 2, 3), (6, 112, 3, 1, 5)),
    ((6, 192, 4, 2, 5), (6, 320, 1, 1, 3)),
  )
  stages = tuple(
    tuple((t, c, math.ceil(factor * n), s, k) for t, c, n, s, k in stage)
    for stage in rows
  )
  return functools.partial(EfficientNet, stages=stages, native_size=size)


NETWORKS: dict[str, Callable[..., InvertedNetwork]] = {
  'mobilenetv3_small': functools.partial(
    MobileNetV3, blocks=_SMALL, last_width=576, hidden=1024
  ),
  'mobilenetv3_large': functools.partial(MobileNetV3, blocks=_LARGE),
  'efficientnet_b0': _deep(1.0, 224),
  'efficientnet_b1': _deep(1.1, 240),
}
