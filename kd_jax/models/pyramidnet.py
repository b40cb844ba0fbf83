"""PyramidNets for small images: the width grows with every block.

Source: Han et al., CVPR 2017; overhaul-distillation 76344a8
(CIFAR-100/models/PyramidNet.py).
"""

from collections.abc import Callable
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax import errors
from kd_jax.features import tap
from kd_jax.models import layers


class Block(nn.Module):
  """A block that begins with a BatchNorm and ends without a ReLU.

  Channels that the input lacks have no shortcut.
  """

  width: int
  stride: int
  bottleneck: bool
  norm: Callable[..., nn.Module]
  dtype: jnp.dtype

  @nn.compact
  def __call__(
    self, x: jax.Array, *, train: bool
  ) -> tuple[jax.Array, jax.Array]:
    """Returns the block's output, and the pre-activation of its input.

    The pre-activation is what the original takes as the input of the first ReLU
    after the previous block: the normalised input of this block or, with a
    bottleneck, the normalised output of its first convolution.

    Args:
      x: The input, [N,H,W,C].
      train: Whether the network trains; see `layers.BatchNorm`.

    Returns:
      [N,H/stride,W/stride,width], with 4*width channels for a bottleneck, and
      the pre-activation [N,H,W,C], with `width` channels for a bottleneck.
    """
    # The channels, the kernel size and the stride of every convolution.
    plan: tuple[tuple[int, int, int], ...]
    if self.bottleneck:
      out = 4 * self.width
      plan = ((self.width, 1, 1), (self.width, 3, self.stride), (out, 1, 1))
    else:
      out = self.width
      plan = ((self.width, 3, self.stride), (out, 3, 1))
    y = pre = self.norm(name='bn1')(x, train=train)
    for i, (features, kernel, stride) in enumerate(plan, 1):
      if i > 1:
        y = nn.relu(y)
      convolution = layers.Conv(
        features, kernel, stride, dtype=self.dtype, name=f'conv{i}'
      )
      y = layers.conv_bn(
        y, convolution, self.norm(name=f'bn{i + 1}'), train=train
      )
      if self.bottleneck and i == 1:
        pre = y
    if self.stride == 2:
      # An odd last row or column is averaged on its own.
      pad = ((0, x.shape[1] % 2), (0, x.shape[2] % 2))
      x = nn.avg_pool(
        x,
        window_shape=(2, 2),
        strides=(2, 2),
        padding=pad,
        count_include_pad=False,
      )
    new_channels = ((0, 0),) * 3 + ((0, out - x.shape[-1]),)
    return y + jnp.pad(x, new_channels), pre


class PyramidNet(layers.Network):
  """A PyramidNet; see `layers.Network`.

  The tap 'stage{i}' is the output of a stage's last block, without a BatchNorm.
  'stage{i}_pre' is the pre-activation that the next block returns (see
  `Block`), and for the last stage the output of the last BatchNorm.
  'stage3_post' is the output of the last ReLU.

  Attributes:
    depth: The number of convolutions, 6n+2, or 9n+2 with bottlenecks.
    alpha: The channels that all blocks together add.
    bottleneck: Whether a block has three convolutions and four times the
      channels.
  """

  depth: int
  alpha: int
  bottleneck: bool = False

  def __post_init__(self):
    """Raises UsageError if there is no such depth."""
    multiple = 9 if self.bottleneck else 6
    if self.depth <= multiple or self.depth % multiple != 2:
      raise errors.ArgumentError(
        f'depth={self.depth}: a PyramidNet has {multiple}n+2'
        + (' with bottlenecks' if self.bottleneck else '')
      )
    super().__post_init__()

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
    """Returns the logits [N,K] f32 of normalised images [N,H,W,3]."""
    conv1 = layers.Conv(16, 3, dtype=self.dtype, name='conv1')
    x = layers.conv_bn(images, conv1, self.norm(name='bn1'), train=train)
    x = tap(self, 'stem', x)
    blocks = (self.depth - 2) // (9 if self.bottleneck else 6)
    width = 16.0
    for i in (1, 2, 3):
      for j in range(blocks):
        width += self.alpha / (3 * blocks)
        x, pre = Block(
          width=round(width),
          stride=2 if i > 1 and j == 0 else 1,
          bottleneck=self.bottleneck,
          norm=self.norm,
          dtype=self.dtype,
          name=f'stage{i}_block{j + 1}',
        )(x, train=train)
        if i > 1 and j == 0:
          tap(self, f'stage{i - 1}_pre', pre)
      tap(self, f'stage{i}', x)
    x = tap(self, 'stage3_pre', self.norm(name='bn_last')(x, train=train))
    return self.classify(tap(self, 'stage3_post', nn.relu(x)))


NETWORKS: dict[str, Callable[..., PyramidNet]] = {
  'pyramidnet110': functools.partial(PyramidNet, depth=110, alpha=84),
  'pyramidnet200': functools.partial(
    PyramidNet, depth=200, alpha=240, bottleneck=True
  ),
}
