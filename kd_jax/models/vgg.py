"""VGG with BatchNorm, for small images and for ImageNet.

Source: Simonyan and Zisserman, ICLR 2015; RepDistiller b84f547 (models/vgg.py,
the variants with BatchNorm, which its benchmark calls vgg8 .. vgg19) and
torchvision (vgg11_bn .. vgg19_bn).
"""

from collections.abc import Callable
import functools
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax import errors, losses
from kd_jax.features import tap
from kd_jax.models import layers


class Layer(nn.Module):
  """A convolution with bias, followed by a BatchNorm."""

  width: int
  norm: Callable[..., nn.Module]
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Returns [N,H,W,width] for x [N,H,W,C]."""
    convolution = layers.Conv(
      self.width,
      3,
      dtype=self.dtype,
      bias_init=nn.initializers.zeros,
      name='conv1',
    )
    return layers.conv_bn(x, convolution, self.norm(name='bn1'), train=train)


class VGG(layers.Network):
  """A VGG; see `layers.Network`.

  A 2x2 max-pool of stride 2 precedes every stage.

  Attributes:
    widths: The channels of every layer, for the stem and for four stages.
    stem: The variant. 'cifar' is RepDistiller's: a linear layer after a global
      mean, and no max-pool before stage 4 unless images have 64 rows.
      'imagenet' is torchvision's without its dropout: a last max-pool, an
      adaptive average-pool to 7x7, and two hidden layers, the second of which
      is the tap 'pooled'.
    hidden: The channels of the hidden layers.
  """

  widths: tuple[tuple[int, ...], ...]
  stem: Literal['cifar', 'imagenet'] = 'cifar'
  hidden: int = 4096

  def __post_init__(self):
    """Raises UsageError if a stage is missing or empty."""
    if len(self.widths) != 5 or not all(self.widths):
      raise errors.ArgumentError(
        f'widths={self.widths}: a VGG needs those of the stem and of 4 stages'
      )
    layers.check_choice('stem', self.stem, ('cifar', 'imagenet'))
    super().__post_init__()

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
    """Returns the logits [N,K] f32 of normalised images [N,H,W,3]."""
    x = images.astype(self.dtype)
    for i, widths in enumerate(self.widths):
      stage = f'stage{i}' if i else 'stem'
      small = self.stem == 'cifar' and images.shape[1] != 64
      if i and not (small and i == 4):
        x = nn.max_pool(x, window_shape=(2, 2), strides=(2, 2))
      for j, width in enumerate(widths, 1):
        pre = Layer(width, self.norm, self.dtype, name=f'{stage}_block{j}')(
          x, train=train
        )
        x = nn.relu(pre)
      if i:
        tap(self, f'{stage}_pre', pre)
      tap(self, stage, x)
    if self.stem == 'imagenet':
      x = losses.avg_pool_to(
        nn.max_pool(x, window_shape=(2, 2), strides=(2, 2)), 7, 7
      )
      x = jnp.moveaxis(x, 3, 1)  # torch flattens [C,H,W]
      x = x.reshape(x.shape[0], -1)
      for i in (1, 2):
        x = layers.Linear(
          self.hidden,
          self.dtype,
          layers.small_init,
          nn.initializers.zeros,
          name=f'hidden{i}',
        )(x)
        x = nn.relu(x)
    return self.classify(x, layers.small_init, nn.initializers.zeros)


def _vgg(*counts: int, **fields: Any) -> Callable[..., VGG]:
  pairs = zip((64, 128, 256, 512, 512), counts, strict=True)
  widths = tuple((width,) * count for width, count in pairs)
  return functools.partial(VGG, widths=widths, **fields)


_COUNTS = {
  'vgg8': (1, 1, 1, 1, 1),
  'vgg11': (1, 1, 2, 2, 2),
  'vgg13': (2, 2, 2, 2, 2),
  'vgg16': (2, 2, 3, 3, 3),
  'vgg19': (2, 2, 4, 4, 4),
}


NETWORKS: dict[str, Callable[..., VGG]] = {
  **{name: _vgg(*counts) for name, counts in _COUNTS.items()},
  **{
    f'{name}_imagenet': _vgg(*counts, stem='imagenet')
    for name, counts in _COUNTS.items()
    if name != 'vgg8'
  },
}
