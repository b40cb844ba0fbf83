"""VID: the student's maps predict the teacher's, with a learned variance.

Source: Ahn et al., "Variational Information Distillation for Knowledge
Transfer", CVPR 2019; RepDistiller b84f547 (distiller_zoo/VID.py), which we
follow. In mdistiller a08d46f the variance is not trained.
"""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kd_jax import errors, losses
from kd_jax.features import Batch, NetFeatures, Terms
from kd_jax.methods import base
from kd_jax.models import layers


class Predictor(nn.Module):
  """Three 1x1 convolutions without bias, with a ReLU between them."""

  @nn.compact
  def __call__(self, x: jax.Array, features: int) -> jax.Array:
    """Maps x [N,h,w,c] f32 to [N,h,w,features] f32."""
    for i in range(3):
      conv = nn.Conv(
        features,
        (1, 1),
        use_bias=False,
        kernel_init=layers.torch_init,
        name=f'conv{i + 1}',
      )
      x = conv(nn.relu(x) if i else x)
    return x


class Method(base.WithTaps):
  """The method VID, which sums negative log-likelihoods over taps.

  Of two maps of different sizes the larger is averaged to the smaller.

  Attributes:
    variance: The initial variance of every channel.
    least_variance: The constant added to the softplus of the learned parameter.
  """

  is_dense: ClassVar = True
  terms: ClassVar = {
    'ce': ('student',),
    'kd': ('student',),
    'vid': ('student', 'method'),
  }

  variance: float = 5.0
  least_variance: float = 1e-5

  def __post_init__(self):
    """Raises UsageError unless `least_variance` < `variance`."""
    super().__post_init__()
    if not self.least_variance < self.variance:
      raise errors.ArgumentError(
        f'variance={self.variance} must be greater than least_variance='
        f'{self.least_variance}'
      )

  @nn.compact
  def __call__(self, feats: NetFeatures, batch: Batch) -> Terms:
    """Returns 'ce', 'kd' and 'vid', the sum over taps."""
    initial_scale = float(np.log(np.expm1(self.variance - self.least_variance)))
    total = jnp.zeros(())
    for i, pair in enumerate(self.met(feats)):
      s, t = losses.aligned(*pair)
      channels = t.shape[-1]
      mean = Predictor(name=f'predictor{i}')(s, channels)
      scale = self.param(
        f'log_scale{i}', nn.initializers.constant(initial_scale), (channels,)
      )
      variance = nn.softplus(scale) + self.least_variance
      total += losses.variational(mean, t, variance)
    return {**self.standard(feats, batch), 'vid': total}
