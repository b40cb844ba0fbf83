"""FT: the student's translated features approach the teacher's factors.

A paraphraser, an autoencoder of the teacher's map, is trained first; then a
translator brings the student's map to the paraphraser's factors.

Source: Kim et al., "Paraphrasing Complex Network: Network Compression via
Factor Transfer", NeurIPS 2018; `Paraphraser`, `Translator` and `FactorTransfer`
of RepDistiller b84f547, which we follow.
"""

from collections.abc import Sequence
from typing import ClassVar

import flax.linen as nn
import jax

from kd_jax import losses
from kd_jax.features import Batch, NetFeatures, Terms
from kd_jax.methods import base
from kd_jax.models import layers


class Stack(nn.Module):
  """3x3 convolutions with bias, each before a LeakyReLU.

  Attributes:
    widths: output channels of each.
    slope: of the LeakyReLU below 0.
    norm: whether there is a BatchNorm before the LeakyReLU.
    transposed: whether the convolutions are transposed ones, which at stride 1
      differ from plain ones by their initialisation only.
    bn_group_size: see `layers.BatchNorm.group_size`.
  """

  widths: Sequence[int]
  slope: float
  norm: bool = False
  transposed: bool = False
  bn_group_size: int = 0

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [N,h,w,c] to [N,h,w,widths[-1]]."""
    for i, width in enumerate(self.widths):
      if self.transposed:  # torch takes their fan-in from the output channels
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
  """The teacher's autoencoder.

  Attributes:
    factors: channels of its inner map.
    slope: of the LeakyReLU below 0.
  """

  factors: int
  slope: float

  @nn.compact
  def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """[N,h,w,c] to the factors [N,h,w,factors] and x's reconstruction."""
    c, f = x.shape[-1], self.factors
    inner = Stack((c, f, f), self.slope, name='encoder')(x)
    decoder = Stack((f, c, c), self.slope, transposed=True, name='decoder')
    return inner, decoder(inner)


class Method(base.WithTaps):
  """FT with cross-entropy.

  A first phase trains the paraphraser with 'reconstruction' alone; in the
  second one it stands still (`config.phases`).

  Attributes:
    taps: the student's last map; one tap.
    rate: factors as a fraction of the teacher's channels (k).
    slope: of the LeakyReLUs below 0.
    bn_group_size: of the translator; see `layers.BatchNorm.group_size`.
  """

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
    """Terms: 'ce', 'kd', 'ft', 'reconstruction' (the paraphraser's MSE)."""
    ((student, teacher),) = self.met(feats)
    factors = int(teacher.shape[-1] * self.rate)
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
