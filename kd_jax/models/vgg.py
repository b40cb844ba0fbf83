"""VGG with BatchNorm for small images: one linear layer after a global mean.

Source: Simonyan and Zisserman, ICLR 2015; RepDistiller b84f547 (models/vgg.py,
the variants with BatchNorm, which its benchmark calls vgg8 .. vgg19).
"""

from collections.abc import Callable
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax import errors
from kd_jax.features import tap
from kd_jax.models import layers


class Layer(nn.Module):
  """A convolution with bias, then BatchNorm."""

  width: int
  norm: Callable[..., nn.Module]
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Maps [N,H,W,C] to [N,H,W,width]."""
    x = layers.conv(
      self.width,
      3,
      dtype=self.dtype,
      bias_init=nn.initializers.zeros,
      name='conv1',
    )(x)
    return self.norm(name='bn1')(x, train=train)


class VGG(layers.Network):
  """A VGG; see `layers.Network`.

  A 2x2 max-pool of stride 2 stands before each of the stages 1 to 3, and before
  stage 4 only where images have 64 rows, as in the original.

  Attributes:
    widths: the channels of every layer, of the stem and of four stages.
  """

  widths: tuple[tuple[int, ...], ...]

  def __post_init__(self):
    """Raises UsageError where a stage is missing or empty."""
    if len(self.widths) != 5 or not all(self.widths):
      raise errors.UsageError(
        f'widths={self.widths}: a VGG needs those of the stem and of 4 stages'
      )
    super().__post_init__()

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
    """Logits [N,K] f32 of normalised images [N,H,W,3]."""
    x = images.astype(self.dtype)
    for i, widths in enumerate(self.widths):
      stage = f'stage{i}' if i else 'stem'
      if i and (i < 4 or images.shape[1] == 64):
        x = nn.max_pool(x, (2, 2), (2, 2))
      for j, width in enumerate(widths, 1):
        pre = Layer(width, self.norm, self.dtype, name=f'{stage}_block{j}')(
          x, train=train
        )
        x = nn.relu(pre)
      if i:
        tap(self, f'{stage}_pre', pre)
      tap(self, stage, x)
    return self.classify(x, layers.small_init, nn.initializers.zeros)


def _vgg(*counts: int) -> Callable[..., VGG]:
  widths = zip((64, 128, 256, 512, 512), counts, strict=True)
  return functools.partial(VGG, widths=tuple((w,) * n for w, n in widths))


NETWORKS: dict[str, Callable[..., VGG]] = {
  'vgg8': _vgg(1, 1, 1, 1, 1),
  'vgg11': _vgg(1, 1, 2, 2, 2),
  'vgg13': _vgg(2, 2, 2, 2, 2),
  'vgg16': _vgg(2, 2, 3, 3, 3),
  'vgg19': _vgg(2, 2, 4, 4, 4),
}
