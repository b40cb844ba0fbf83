"""ResNets for CIFAR and ImageNet.

A single class covers RepDistiller's CIFAR family (resnet8 .. resnet110,
resnet8x4, resnet32x4: three stages, 3x3 stem), SimKD's wide variants of it
(resnet14x2, resnet38x2, resnet38x4, which its tables call WRN-16-2, WRN-40-2,
WRN-40-4) and ResNet18 .. ResNet152 (four stages) with either stem:
RepDistiller's ResNet50 is 'resnet50' with stem='cifar'. Shortcuts are 1x1
convolutions with BatchNorm wherever the stride or the width changes. The stride
of a bottleneck is on its 3x3 convolution (torchvision's "v1.5"). ResNet-D
(resnet18d, resnet34d, resnet50d) has the stem 'deep', and averages 2x2 pixels
in the shortcuts where others have a stride.

Source: He et al., CVPR 2016; RepDistiller b84f547 (models/resnet.py,
resnetv2.py), SimKD 2b389c3 (models/resnet.py) and torchvision for widths,
initialisation and parameter counts. ResNet-D: He et al., "Bag of Tricks for
Image Classification", CVPR 2019; timm (resnet.py).
"""

from collections.abc import Callable
import functools
from typing import Literal, NamedTuple

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
  dilation: int = 1  # of the 3x3 convolutions
  averages: bool = False  # whether the shortcut's stride is an average-pool
  drop_path: float = 0.0

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
      convolution = conv(
        features,
        kernel,
        stride,
        dilation=self.dilation if kernel > 1 else 1,
        name=f'conv{i}',
      )
      y = layers.conv_bn(y, convolution, self.norm(name=f'bn{i}'), train=train)
      if i < len(plan):
        y = nn.relu(y)
    if self.stride != 1 or x.shape[-1] != out:
      stride = 1 if self.averages else self.stride
      if stride != self.stride:
        # Pixels beyond an odd side do not count.
        sides = ((0, x.shape[1] % 2), (0, x.shape[2] % 2))
        x = nn.avg_pool(x, (2, 2), (2, 2), sides, count_include_pad=False)
      convolution = conv(out, 1, stride, name='shortcut_conv')
      x = layers.conv_bn(
        x, convolution, self.norm(name='shortcut_bn'), train=train
      )
    return x + layers.drop_path(y, self.drop_path, train=train)


Stem = Literal['cifar', 'strided', 'imagenet', 'deep']
# The stride of each stem, in pixels.
STEMS: dict[str, int] = {'cifar': 1, 'strided': 2, 'imagenet': 4, 'deep': 4}


class Plan(NamedTuple):
  """What the stages of a ResNet are made of.

  Attributes:
    stage_sizes: See `ResNet`.
    widths: See `ResNet`.
    bottleneck: See `ResNet`.
    stem: See `ResNet`.
    output_stride: See `ResNet`.
    grid: See `ResNet`.
  """

  stage_sizes: tuple[int, ...]
  widths: tuple[int, ...]
  bottleneck: bool
  stem: Stem
  output_stride: int = 32
  grid: tuple[int, ...] = ()

  @property
  def before(self) -> tuple[int, ...]:
    """The strides of the convolutions before the stem's last."""
    return (2, 1) if self.stem == 'deep' else ()

  def check(self) -> None:
    """Raises UsageError if the values contradict each other."""
    if len(self.widths) != len(self.stage_sizes) + 1:
      raise errors.ArgumentError(
        f'widths={self.widths}: a ResNet of {len(self.stage_sizes)} stages '
        f"needs {len(self.stage_sizes) + 1}, the stem's first"
      )
    layers.check_choice('stem', self.stem, tuple(STEMS))
    first = STEMS[self.stem]
    known = [first * 2**i for i in range(6)]
    if self.output_stride not in known:
      raise errors.ArgumentError(
        f'output_stride={self.output_stride}: the stem {self.stem!r} has the '
        f'stride {first}; give one of {", ".join(map(str, known))}'
      )
    if len(self.grid) not in (0, self.stage_sizes[-1]):
      raise errors.ArgumentError(
        f'grid={self.grid}: the last stage has {self.stage_sizes[-1]} blocks; '
        'give a factor for each, or () for none'
      )

  def strides(self) -> list[tuple[int, int]]:
    """Returns the stride and the dilation of every stage."""
    total, dilation, stages = STEMS[self.stem], 1, []
    for i in range(len(self.stage_sizes)):
      stride = 2 if i else 1
      if stride * total > self.output_stride:
        stride, dilation = 1, dilation * 2
      total *= stride
      stages.append((stride, dilation))
    return stages

  def dilations(self, stage: int, dilation: int) -> list[int]:
    """Returns the dilation of every block of a stage, counted from 0."""
    last = stage == len(self.stage_sizes) - 1
    factors = (last and self.grid) or (1,) * self.stage_sizes[stage]
    return [dilation * factor for factor in factors]


def trunk(
  images: jax.Array,
  plan: Plan,
  norm: Callable[..., nn.Module],
  dtype: jnp.dtype,
  *,
  train: bool,
  drop_path: float = 0.0,
) -> dict[str, jax.Array]:
  """Returns the maps of a ResNet without its classifier.

  It makes its layers in the module in whose compact method it is called.

  Args:
    images: Normalised images, [N,H,W,3] f32.
    plan: What the stages are made of.
    norm: The constructor of a BatchNorm.
    dtype: The dtype of the computation.
    train: Whether the network trains.
    drop_path: The rate of the last block; see `layers.drop_path`.

  Returns:
    'stem', and 'stage{i}_pre' and 'stage{i}' of every stage, [N,h,w,C] each, in
    the order of computation.
  """
  kernel, stride = {'strided': (3, 2), 'imagenet': (7, 2)}.get(
    plan.stem, (3, 1)
  )
  x = images
  for number, stride_before in enumerate(plan.before, 1):
    name = f'stem_conv{number}'
    width = plan.widths[0] // 2
    convolution = layers.Conv(width, 3, stride_before, dtype=dtype, name=name)
    bn = norm(name=f'stem_bn{number}')
    x = nn.relu(layers.conv_bn(x, convolution, bn, train=train))
  conv1 = layers.Conv(plan.widths[0], kernel, stride, dtype=dtype, name='conv1')
  x = layers.conv_bn(x, conv1, norm(name='bn1'), train=train)
  maps = {'stem': (x := nn.relu(x))}
  if STEMS[plan.stem] == 4:
    # After a ReLU, padding with zeros is equivalent to padding with -inf,
    # and jax2onnx requires it.
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    x = nn.max_pool(x, window_shape=(3, 3), strides=(2, 2))
  rates = iter(layers.rates(drop_path, sum(plan.stage_sizes)))
  for i, (stride, dilation) in enumerate(plan.strides()):
    for j, dilation_of_block in enumerate(plan.dilations(i, dilation)):
      pre = Block(
        width=plan.widths[i + 1],
        stride=1 if j else stride,
        bottleneck=plan.bottleneck,
        norm=norm,
        dtype=dtype,
        dilation=dilation_of_block,
        averages=plan.stem == 'deep',
        drop_path=next(rates),
        name=f'stage{i + 1}_block{j + 1}',
      )(x, train=train)
      x = nn.relu(pre)
    maps |= {f'stage{i + 1}_pre': pre, f'stage{i + 1}': x}
  return maps


class ResNet(layers.Network):
  """A ResNet; see `layers.Network`.

  Attributes:
    stage_sizes: The number of blocks in every stage.
    widths: The channels of the stem, then of every stage. A bottleneck returns
      four times the channels of its stage.
    bottleneck: Whether a block has three convolutions instead of two.
    stem: The stem: 'cifar' is a 3x3 convolution; 'strided' is one of stride 2;
      'imagenet' is a 7x7 convolution of stride 2 and a 3x3 max-pool of stride
      2; 'deep' is ResNet-D's, three 3x3 convolutions, of which the first has
      the stride 2 and the first two half of the channels, and that max-pool.
    output_stride: The largest stride of a map, in pixels. A stage that would
      exceed it has the stride 1, and its 3x3 convolutions and those of later
      stages are dilated by twice as much.
    grid: The factor of the dilation in each block of the last stage; () is 1.
    drop_path: In training, the probability that an image goes without the
      branch of the last block; the first block's is 0, and those between grow
      linearly (stochastic depth).
  """

  stage_sizes: tuple[int, ...]
  widths: tuple[int, ...]
  bottleneck: bool = False
  stem: Stem = 'cifar'
  output_stride: int = 32
  grid: tuple[int, ...] = ()
  drop_path: float = 0.0

  def __post_init__(self):
    """Raises UsageError if the fields contradict each other."""
    self.plan.check()
    super().__post_init__()

  @property
  def plan(self) -> Plan:
    """What the stages are made of."""
    return Plan(*(getattr(self, name) for name in Plan._fields))

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
    """Returns the logits [N,K] f32 of normalised images [N,H,W,3]."""
    plan, drop_path = self.plan, self.drop_path
    maps = trunk(
      images, plan, self.norm, self.dtype, train=train, drop_path=drop_path
    )
    for name, x in maps.items():
      tap(self, name, x)
    return self.classify(x)


def _cifar(depth: int, widths: tuple[int, ...]) -> Callable[..., ResNet]:
  blocks = (depth - 2) // 6
  return functools.partial(ResNet, stage_sizes=(blocks,) * 3, widths=widths)


def _imagenet(
  bottleneck: bool, *sizes: int, stem: Stem = 'imagenet'
) -> Callable[..., ResNet]:
  return functools.partial(
    ResNet,
    stage_sizes=sizes,
    widths=(64, 64, 128, 256, 512),
    bottleneck=bottleneck,
    stem=stem,
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
  'resnet18d': _imagenet(False, 2, 2, 2, 2, stem='deep'),
  'resnet34d': _imagenet(False, 3, 4, 6, 3, stem='deep'),
  'resnet50d': _imagenet(True, 3, 4, 6, 3, stem='deep'),
}
