"""CC: the student's embedding approaches the teacher's, for images in pairs.

Source: Peng et al., "Correlation Congruence for Knowledge Distillation", ICCV
2019; RepDistiller b84f547 (distiller_zoo/CC.py), which we follow: it has no
kernel over the batch but the products of neighbours' differences, and trains
the embeddings of both networks.
"""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from kd_jax import losses
from kd_jax.features import Batch, NetFeatures, Terms
from kd_jax.methods import base
from kd_jax.models import layers


class Method(base.WithTaps):
  """The sum over taps of the embeddings' correlation, with CE and KD.

  Attributes:
    width: of the embeddings.
  """

  terms: ClassVar = {
    'ce': ('student',),
    'kd': ('student',),
    'cc': ('student', 'method'),
  }

  taps: tuple[str, ...] = ('pooled',)
  width: int = 128

  @nn.compact
  def __call__(self, feats: NetFeatures, batch: Batch) -> Terms:
    """Terms: 'ce', 'kd', 'cc'."""
    each = []
    for i, (s, t) in enumerate(self.met(feats, ndim=2)):
      ours = layers.Linear(self.width, name=f'student{i}')(s)
      theirs = layers.Linear(self.width, name=f'teacher{i}')(t)
      each.append(losses.correlation(ours, theirs))
    return {**self.standard(feats, batch), 'cc': jnp.stack(each).sum()}
