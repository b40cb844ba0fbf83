"""ShuffleNets V1 and V2 for small images, with a 1x1 stem and three stages.

Source: Zhang et al., CVPR 2018, and Ma et al., ECCV 2018; RepDistiller b84f547
(models/ShuffleNetv1.py, ShuffleNetv2.py), SimKD 2b389c3 (V2 of 1.5 times the
width). OFD is not defined for either of them as a teacher.
"""

from collections.abc import Callable
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax import errors
from kd_jax.features import tap
from kd_jax.models import layers


def shuffled(x: jax.Array, groups: int) -> jax.Array:
  """Returns [N,H,W,C] with the channels of `groups` groups interleaved."""
  n, h, w, c = x.shape
  x = x.reshape(n, h, w, groups, c // groups)
  return jnp.swapaxes(x, 3, 4).reshape(n, h, w, c)


class Unit(nn.Module):
  """A unit of V1, without its last ReLU.

  At stride 2 the input is average-pooled, and its channels follow the new ones.
  """

  width: int
  stride: int
  groups: int
  first_groups: int
  norm: Callable[..., nn.Module]
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Returns [N,H/stride,W/stride,width (+ C at stride 2)] for [N,H,W,C]."""
    conv = functools.partial(
      layers.Conv, dtype=self.dtype, kernel_init=layers.torch_init
    )
    inner = self.width // 4
    convolution = conv(inner, 1, groups=self.first_groups, name='conv1')
    y = nn.relu(
      layers.conv_bn(x, convolution, self.norm(name='bn1'), train=train)
    )
    y = shuffled(y, self.first_groups)
    convolution = conv(inner, 3, self.stride, groups=inner, name='conv2')
    y = nn.relu(
      layers.conv_bn(y, convolution, self.norm(name='bn2'), train=train)
    )
    convolution = conv(self.width, 1, groups=self.groups, name='conv3')
    y = layers.conv_bn(y, convolution, self.norm(name='bn3'), train=train)
    if self.stride == 1:
      return x + y
    x = nn.avg_pool(
      x, window_shape=(3, 3), strides=(2, 2), padding=((1, 1), (1, 1))
    )
    return jnp.concatenate([y, x], axis=-1)


class ShuffleNetV1(layers.Network):
  """A ShuffleNetV1; see `layers.Network`.

  Attributes:
    stage_sizes: The number of units in every stage, including the unit of
      stride 2.
    widths: The channels of every stage.
    groups: The groups of the 1x1 convolutions. The first 1x1 convolution of the
      first unit has a single group.
  """

  stage_sizes: tuple[int, ...] = (4, 8, 4)
  widths: tuple[int, ...] = (240, 480, 960)
  groups: int = 3

  def __post_init__(self):
    """Raises UsageError if the fields contradict each other."""
    _check(self.stage_sizes, self.widths, 'ShuffleNetV1')
    super().__post_init__()

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
    """Returns the logits [N,K] f32 of normalised images [N,H,W,3]."""
    x = _stem(self, images, train)
    stages = zip(self.stage_sizes, self.widths, strict=True)
    for i, (units, width) in enumerate(stages, 1):
      for j in range(units):
        pre = Unit(
          width=width if j else width - x.shape[-1],
          stride=1 if j else 2,
          groups=self.groups,
          first_groups=1 if x.shape[-1] == 24 else self.groups,
          norm=self.norm,
          dtype=self.dtype,
          name=f'stage{i}_unit{j + 1}',
        )(x, train=train)
        x = nn.relu(pre)
      tap(self, f'stage{i}_pre', pre)
      tap(self, f'stage{i}', x)
    return self.classify(x)


class Split(nn.Module):
  """A unit of V2 that transforms half of the channels and passes the rest."""

  norm: Callable[..., nn.Module]
  dtype: jnp.dtype

  @nn.compact
  def __call__(
    self, x: jax.Array, *, train: bool
  ) -> tuple[jax.Array, jax.Array]:
    """Returns the unit's output and its pre-activation, both [N,H,W,C].

    The pre-activation is taken before the last ReLU and before the shuffle.
    """
    conv = functools.partial(
      layers.Conv, dtype=self.dtype, kernel_init=layers.torch_init
    )
    half = x.shape[-1] // 2
    kept, y = x[..., :half], x[..., half:]
    convolution = conv(half, 1, name='conv1')
    y = nn.relu(
      layers.conv_bn(y, convolution, self.norm(name='bn1'), train=train)
    )
    convolution = conv(half, 3, groups=half, name='conv2')
    y = layers.conv_bn(y, convolution, self.norm(name='bn2'), train=train)
    convolution = conv(half, 1, name='conv3')
    y = layers.conv_bn(y, convolution, self.norm(name='bn3'), train=train)
    both = jnp.concatenate([kept, nn.relu(y)], axis=-1)
    return shuffled(both, 2), jnp.concatenate([kept, y], axis=-1)


class Down(nn.Module):
  """A unit of V2 that halves the map by two branches.

  The left branch begins with its depthwise convolution, the right branch with a
  1x1 convolution.
  """

  width: int
  norm: Callable[..., nn.Module]
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Returns [N,H/2,W/2,width] for x [N,H,W,C]."""

    def conv(x, width, number, *, depthwise=False):
      convolution = layers.Conv(
        width,
        3 if depthwise else 1,
        2 if depthwise else 1,
        groups=width if depthwise else 1,
        dtype=self.dtype,
        kernel_init=layers.torch_init,
        name=f'conv{number}',
      )
      return layers.conv_bn(
        x, convolution, self.norm(name=f'bn{number}'), train=train
      )

    half = self.width // 2
    left = conv(x, x.shape[-1], 1, depthwise=True)
    left = nn.relu(conv(left, half, 2))
    right = nn.relu(conv(x, half, 3))
    right = conv(right, half, 4, depthwise=True)
    right = nn.relu(conv(right, half, 5))
    return shuffled(jnp.concatenate([left, right], axis=-1), 2)


class ShuffleNetV2(layers.Network):
  """A ShuffleNetV2; see `layers.Network`.

  The tap 'stage{i}_pre' is taken before the ReLU and before the shuffle.
  'stage3_post' is the output of the last 1x1 convolution's ReLU, which is
  pooled.

  Attributes:
    stage_sizes: The number of units in every stage, including the unit of
      stride 2.
    widths: The channels of every stage, then of the last map.
  """

  stage_sizes: tuple[int, ...] = (4, 8, 4)
  widths: tuple[int, ...] = (116, 232, 464, 1024)

  def __post_init__(self):
    """Raises UsageError if the fields contradict each other."""
    _check(self.stage_sizes, self.widths[:-1], 'ShuffleNetV2')
    super().__post_init__()

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
    """Returns the logits [N,K] f32 of normalised images [N,H,W,3]."""
    x = _stem(self, images, train)
    stages = zip(self.stage_sizes, self.widths[:-1], strict=True)
    for i, (units, width) in enumerate(stages, 1):
      x = Down(width, self.norm, self.dtype, name=f'stage{i}_unit1')(
        x, train=train
      )
      for j in range(2, units + 1):
        x, pre = Split(self.norm, self.dtype, name=f'stage{i}_unit{j}')(
          x, train=train
        )
      tap(self, f'stage{i}_pre', pre)
      tap(self, f'stage{i}', x)
    conv2 = layers.Conv(
      self.widths[-1],
      1,
      dtype=self.dtype,
      kernel_init=layers.torch_init,
      name='conv2',
    )
    x = nn.relu(layers.conv_bn(x, conv2, self.norm(name='bn2'), train=train))
    return self.classify(tap(self, f'stage{len(self.stage_sizes)}_post', x))


def _stem(network: layers.Network, images: jax.Array, train: bool) -> jax.Array:
  """Returns the stem's map: 24 channels by a 1x1 convolution.

  It is called in the `__call__` of `network`, to which its layers belong.
  """
  conv1 = layers.Conv(
    24, 1, dtype=network.dtype, kernel_init=layers.torch_init, name='conv1'
  )
  x = layers.conv_bn(images, conv1, network.norm(name='bn1'), train=train)
  return tap(network, 'stem', nn.relu(x))


def _check(sizes: tuple[int, ...], widths: tuple[int, ...], name: str) -> None:
  if len(sizes) != len(widths) or min(sizes) < 2:
    raise errors.ArgumentError(
      f'stage_sizes={sizes}, widths={widths}: a {name} has as many stages as '
      "widths (and V2 the last map's beside them), each of 2 units or more"
    )


NETWORKS: dict[str, Callable[..., nn.Module]] = {
  'shufflenetv1': ShuffleNetV1,
  'shufflenetv2': ShuffleNetV2,
  'shufflenetv2x1_5': functools.partial(
    ShuffleNetV2, widths=(176, 352, 704, 1024)
  ),
}
