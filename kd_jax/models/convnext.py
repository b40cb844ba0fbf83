"""ConvNeXt: a convolutional network with the parts of a transformer.

Blocks are a depthwise 7x7 convolution, a LayerNorm and an MLP, scaled by a
factor of each channel. The small sizes (atto to nano) are timm's, whose 1x1
convolutions are the MLP's dense layers.

Source: Liu et al., "A ConvNet for the 2020s", CVPR 2022; timm (convnext.py) and
torchvision (convnext.py) for names and parameter counts.
"""

from collections.abc import Callable
import functools
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax import errors
from kd_jax.features import tap
from kd_jax.models import layers


class Block(nn.Module):
  """A residual block.

  Attributes:
    layer_scale: The factor with which every channel of the branch starts.
    drop_path: The rate of stochastic depth; see `layers.drop_path`.
    dtype: The dtype of the computation.
  """

  layer_scale: float
  drop_path: float
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Returns [N,H,W,C] for x [N,H,W,C]."""
    width = x.shape[-1]
    linear = functools.partial(
      layers.Linear,
      dtype=self.dtype,
      kernel_init=layers.token_init,
      bias_init=nn.initializers.zeros,
    )
    y = _conv(width, 7, self.dtype, 'conv1', groups=width)(x)
    y = linear(4 * width, name='hidden')(layers.layer_norm('ln1')(y))
    y = linear(width, name='out')(nn.gelu(y, approximate=False))
    start = nn.initializers.constant(self.layer_scale)
    scale = self.param('layer_scale', start, (width,)).astype(y.dtype)
    branch = y * scale[None, None, None, :]
    return x + layers.drop_path(branch, self.drop_path, train=train)


class ConvNeXt(layers.Network):
  """A ConvNeXt; see `layers.Network`.

  Blocks end without an activation, so that 'stage{i}_pre' equals 'stage{i}'.
  'pooled' is the mean of the last map after a LayerNorm.

  Attributes:
    stage_sizes: The number of blocks in every stage.
    widths: The channels of every stage.
    patch: The side of the patches that the stem embeds, in pixels; every later
      stage has half of the map's side.
    layer_scale: See `Block`.
    drop_path: The last block's rate of stochastic depth, to which it rises
      linearly from 0 in the first block.
  """

  native_size: ClassVar[int] = 224

  stage_sizes: tuple[int, ...] = (3, 3, 9, 3)
  widths: tuple[int, ...] = (96, 192, 384, 768)
  patch: int = 4
  layer_scale: float = 1e-6
  drop_path: float = 0.0

  def __post_init__(self):
    """Raises UsageError if there are not as many widths as stages."""
    if len(self.widths) != len(self.stage_sizes):
      raise errors.ArgumentError(
        f'widths={self.widths}: a ConvNeXt of {len(self.stage_sizes)} stages '
        f'needs {len(self.stage_sizes)}'
      )
    super().__post_init__()

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
    """Returns the logits [N,K] f32 of normalised images [N,H,W,3]."""
    patches = functools.partial(_conv, dtype=self.dtype, padding=0)
    embed = patches(
      self.widths[0], self.patch, name='stem_conv', stride=self.patch
    )
    x = tap(self, 'stem', layers.layer_norm('stem_ln')(embed(images)))
    rates = iter(layers.rates(self.drop_path, sum(self.stage_sizes)))
    plan = zip(self.stage_sizes, self.widths, strict=True)
    for i, (blocks, width) in enumerate(plan, 1):
      if i > 1:
        x = layers.layer_norm(f'stage{i}_ln')(x)
        x = patches(width, 2, name=f'stage{i}_conv', stride=2)(x)
      x = x.astype(self.dtype)
      for j in range(1, blocks + 1):
        x = Block(
          self.layer_scale, next(rates), self.dtype, name=f'stage{i}_block{j}'
        )(x, train=train)
      tap(self, f'stage{i}', tap(self, f'stage{i}_pre', x))
    pooled = layers.layer_norm('ln_last')(
      x.astype(jnp.float32).mean(axis=(1, 2))
    )
    return self.classify(pooled, layers.token_init, nn.initializers.zeros)


def _conv(
  features: int,
  kernel: int,
  dtype: jnp.dtype,
  name: str,
  *,
  stride: int = 1,
  groups: int = 1,
  padding: int | None = None,
) -> layers.Conv:
  return layers.Conv(
    features,
    kernel,
    stride,
    groups,
    padding=padding,
    dtype=dtype,
    kernel_init=layers.token_init,
    bias_init=nn.initializers.zeros,
    name=name,
  )


def _sized(width: int, blocks: int) -> Callable[..., ConvNeXt]:
  return functools.partial(
    ConvNeXt,
    stage_sizes=(2, 2, blocks, 2),
    widths=(width, 2 * width, 4 * width, 8 * width),
  )


NETWORKS: dict[str, Callable[..., ConvNeXt]] = {
  'convnext_atto': _sized(40, 6),
  'convnext_femto': _sized(48, 6),
  'convnext_pico': _sized(64, 6),
  'convnext_nano': _sized(80, 8),
  'convnext_tiny': ConvNeXt,
}
