"""FT: the student's translated features approach the teacher's factors.

A paraphraser, an autoencoder of the teacher's map, is trained first. Then a
translator learns to map the student's features to the paraphraser's factors.

Source: Kim et al., "Paraphrasing Complex Network: Network Compression via
Factor Transfer", NeurIPS 2018; `Paraphraser`, `Translator` and `FactorTransfer`
of RepDistiller b84f547, which we follow.
"""

from collections.abc import Sequence
from typing import ClassVar

import flax.linen as nn
import jax

from kd_jax import errors, losses
from kd_jax.features import Batch, NetFeatures, Terms
from kd_jax.methods import base
from kd_jax.models import layers


class Stack(nn.Module):
  """A stack of 3x3 convolutions with bias, each followed by a LeakyReLU.

  Attributes:
    widths: The output channels of each convolution.
    slope: The slope of the LeakyReLU below 0.
    norm: Whether a BatchNorm precedes each LeakyReLU.
    transposed: Whether the convolutions are transposed. At stride 1 these
      differ from plain convolutions only in their initialisation.
    bn_group_size: See `layers.BatchNorm.group_size`.
  """

  widths: Sequence[int]
  slope: float
  norm: bool = False
  transposed: bool = False
  bn_group_size: int = 0

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps x [N,h,w,c] f32 to [N,h,w,widths[-1]] f32."""
    for i, width in enumerate(self.widths):
      if self.transposed:
        # torch computes a transposed kernel's fan-in from its output channels.
        init = layers.torch_bias_init(9 * width)
        x = nn.ConvTranspose(
          width,
          (3, 3),
          padding=((1, 1), (1, 1)),
          kernel_init=init,
          bias_init=init,
          name=f'conv{i}',
        )(x)
      else:
        fan_in = 9 * x.shape[-1]
        x = layers.torch_conv(width, 3, fan_in, name=f'conv{i}')(x)
      if self.norm:
        bn = layers.BatchNorm(group_size=self.bn_group_size, name=f'bn{i}')
        x = bn(x, train=True)
      x = nn.leaky_relu(x, self.slope)
    return x


class Paraphraser(nn.Module):
  """An autoencoder of the teacher's map, which extracts its factors.

  Attributes:
    factors: The channels of the factors.
    slope: The slope of the LeakyReLUs below 0.
  """

  factors: int
  slope: float

  @nn.compact
  def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the factors of a map and its reconstruction from them.

    Args:
      x: The teacher's map, [N,h,w,c] f32.

    Returns:
      The factors, [N,h,w,factors] f32, and the reconstruction, [N,h,w,c] f32.
    """
    c, f = x.shape[-1], self.factors
    encoded = Stack((c, f, f), self.slope, name='encoder')(x)
    decoder = Stack((f, c, c), self.slope, transposed=True, name='decoder')
    return encoded, decoder(encoded)


class Method(base.WithTaps):
  """The method FT, which compares factors of the teacher and the student.

  A first phase trains the paraphraser with 'reconstruction' alone; in the
  second phase the paraphraser is frozen.

  Attributes:
    taps: The student's last map, a single tap.
    rate: The number of factors as a fraction of the teacher's channels (k).
    slope: The slope of the LeakyReLUs below 0.
    bn_group_size: The BatchNorm group size of the translator; see
      `layers.BatchNorm.group_size`.
  """

  is_dense: ClassVar = True
  takes_one_tap: ClassVar = True
  terms: ClassVar = {
    'ce': ('student',),
    'kd': ('student',),
    'ft': ('student', 'method'),
    'reconstruction': ('method',),
  }

  taps: tuple[str, ...] = ('stage3',)
  rate: float = 0.5
  slope: float = 0.1
  bn_group_size: int = 0

  @nn.compact
  def __call__(self, feats: NetFeatures, batch: Batch) -> Terms:
    """Returns 'ce', 'kd', 'ft', and the paraphraser's 'reconstruction' MSE."""
    ((student, teacher),) = self.met(feats)
    factors = int(teacher.shape[-1] * self.rate)
    if not factors:
      raise errors.ArgumentError(
        f"rate={self.rate} of the teacher's {teacher.shape[-1]} channels is no "
        f'factor: give {1 / teacher.shape[-1]:.3g} or more'
      )
    paraphraser = Paraphraser(factors, self.slope, name='paraphraser')
    target, reconstruction = paraphraser(teacher)
    translator = Stack(
      (student.shape[-1], factors, factors),
      self.slope,
      norm=True,
      bn_group_size=self.bn_group_size,
      name='translator',
    )
    target = jax.lax.stop_gradient(target)
    return {
      **self.standard(feats, batch),
      'ft': losses.factor_transfer(translator(student), target),
      'reconstruction': losses.mse(reconstruction, teacher),
    }
