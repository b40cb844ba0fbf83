"""CC: the student's embeddings approach the teacher's, on pairs of images.

Source: Peng et al., "Correlation Congruence for Knowledge Distillation", ICCV
2019; RepDistiller b84f547 (distiller_zoo/CC.py), which we follow: it uses the
products of adjacent images' differences in place of a kernel over the batch,
and it trains the embeddings of both networks.
"""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from kd_jax import losses
from kd_jax.features import Batch, NetFeatures, Terms
from kd_jax.methods import base
from kd_jax.models import layers


class Method(base.WithTaps):
  """The method CC, which sums the embeddings' correlation over taps.

  Attributes:
    width: The width of the embeddings.
  """

  is_dense: ClassVar = True
  terms: ClassVar = {
    'ce': ('student',),
    'kd': ('student',),
    'cc': ('student', 'method'),
  }

  taps: tuple[str, ...] = ('pooled',)
  width: int = 128

  @nn.compact
  def __call__(self, feats: NetFeatures, batch: Batch) -> Terms:
    """Returns 'ce', 'kd' and 'cc', the sum over taps."""
    correlations = []
    for i, (s, t) in enumerate(self.met(feats, ndim=2)):
      student = layers.Linear(self.width, name=f'student{i}')(s)
      teacher = layers.Linear(self.width, name=f'teacher{i}')(t)
      correlations.append(losses.correlation(student, teacher))
    return {**self.standard(feats, batch), 'cc': jnp.stack(correlations).sum()}
