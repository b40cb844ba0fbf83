"""Wide residual networks: BatchNorm and ReLU before every convolution.

There are two variants. 'repdistiller', which is also overhaul-distillation's,
has no biases, the stride on a block's first convolution, and the shortcut's 1x1
convolution on the normalised input. 'ffsd' has biases, the stride on the second
convolution, the shortcut's convolution on the raw input, and a last BatchNorm
whose running statistics keep a tenth of their value in a step. Dropout, which
is 0 in the recipes, is left out.

Source: Zagoruyko and Komodakis, BMVC 2016; RepDistiller b84f547
(models/wrn.py), overhaul-distillation 76344a8 (CIFAR-100/models/WideResNet.py),
FFSD d5cfda9 (models/wideresnet_cifar.py).
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
  """A pre-activation block."""

  width: int
  stride: int
  ffsd: bool
  norm: Callable[..., nn.Module]
  dtype: jnp.dtype
  drop_path: float = 0.0

  @nn.compact
  def __call__(
    self, x: jax.Array, *, train: bool
  ) -> tuple[jax.Array, jax.Array]:
    """Returns the block's output and its normalised input.

    Args:
      x: The input, [N,H,W,C].
      train: Whether the network trains; see `layers.BatchNorm`.

    Returns:
      [N,H/stride,W/stride,width], and the output [N,H,W,C] of the first
      BatchNorm, before the ReLU.
    """

    def conv(channels: int, kernel: int, stride: int, name: str) -> layers.Conv:
      fan_in = kernel * kernel * channels
      return layers.Conv(
        self.width,
        kernel,
        stride,
        dtype=self.dtype,
        bias_init=layers.torch_bias_init(fan_in) if self.ffsd else None,
        name=name,
      )

    pre = self.norm(name='bn1')(x, train=train)
    active = nn.relu(pre)
    stride1, stride2 = (1, self.stride) if self.ffsd else (self.stride, 1)
    convolution = conv(x.shape[-1], 3, stride1, 'conv1')
    y = layers.conv_bn(active, convolution, self.norm(name='bn2'), train=train)
    y = conv(self.width, 3, stride2, 'conv2')(nn.relu(y))
    if self.stride != 1 or x.shape[-1] != self.width:
      shortcut = conv(x.shape[-1], 1, self.stride, 'shortcut_conv')
      x = shortcut(x if self.ffsd else active)
    return x + layers.drop_path(y, self.drop_path, train=train), pre


class WideResNet(layers.Network):
  """A WRN-depth-widen; see `layers.Network`.

  The tap 'stage{i}' is the raw sum of a stage's last block, 'stage{i}_pre' the
  output of the BatchNorm after it, and 'stage3_post' the output of the last
  ReLU.

  Attributes:
    depth: The number of convolutions, 6n+4.
    widen: The factor of 16, 32 and 64 channels.
    variant: The variant; see the module's docstring.
    drop_path: See `resnet.ResNet.drop_path`.
  """

  depth: int
  widen: int
  variant: Literal['repdistiller', 'ffsd'] = 'repdistiller'
  drop_path: float = 0.0

  def __post_init__(self):
    """Raises UsageError if there is no such depth or variant."""
    if self.depth < 10 or self.depth % 6 != 4:
      raise errors.ArgumentError(
        f'depth={self.depth}: a WideResNet has 6n+4, such as 16, 28 or 40'
      )
    layers.check_choice('variant', self.variant, ('repdistiller', 'ffsd'))
    super().__post_init__()

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
    """Returns the logits [N,K] f32 of normalised images [N,H,W,3]."""
    ffsd = self.variant == 'ffsd'
    bias_init = layers.torch_bias_init(27) if ffsd else None
    x = layers.Conv(16, 3, dtype=self.dtype, bias_init=bias_init, name='conv1')(
      images.astype(self.dtype)
    )
    tap(self, 'stem', x)
    blocks = (self.depth - 4) // 6
    rates = iter(layers.rates(self.drop_path, 3 * blocks))
    for i in (1, 2, 3):
      for j in range(blocks):
        x, pre = Block(
          width=8 * 2**i * self.widen,
          stride=2 if i > 1 and j == 0 else 1,
          ffsd=ffsd,
          norm=self.norm,
          dtype=self.dtype,
          drop_path=next(rates),
          name=f'stage{i}_block{j + 1}',
        )(x, train=train)
        if i > 1 and j == 0:
          tap(self, f'stage{i - 1}_pre', pre)
      tap(self, f'stage{i}', x)
    # FFSD sets torch's momentum to 0.9; `layers.BatchNorm` takes 1 minus that.
    momentum = {'momentum': 0.1} if ffsd else {}
    x = self.norm(name='bn_last', **momentum)(x, train=train)
    x = tap(self, 'stage3_post', nn.relu(tap(self, 'stage3_pre', x)))
    return self.classify(x, bias_init=None if ffsd else nn.initializers.zeros)


NETWORKS: dict[str, Callable[..., WideResNet]] = {
  **{
    f'wrn_{depth}_{widen}': functools.partial(
      WideResNet, depth=depth, widen=widen
    )
    for depth, widen in (
      (16, 1),
      (16, 2),
      (16, 4),
      (28, 2),
      (28, 4),
      (28, 10),
      (40, 1),
      (40, 2),
    )
  },
  **{
    f'wrn_{depth}_2_ffsd': functools.partial(
      WideResNet, depth=depth, widen=2, variant='ffsd'
    )
    for depth in (16, 40)
  },
}
