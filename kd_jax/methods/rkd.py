"""RKD: the student keeps the teacher's distances and angles between images.

Source: Park et al., "Relational Knowledge Distillation", CVPR 2019;
RepDistiller b84f547 (distiller_zoo/RKD.py), which we follow. Its weights of the
two halves, 25 and 50, are here those of the two terms.
"""

from typing import ClassVar

import jax.numpy as jnp

from kd_jax import losses
from kd_jax.features import Batch, NetFeatures, Terms
from kd_jax.methods import base


class Method(base.WithTaps):
  """The sums over taps of both halves, with CE and KD."""

  terms: ClassVar = {
    'ce': ('student',),
    'kd': ('student',),
    'rkd_distance': ('student',),
    'rkd_angle': ('student',),
  }

  taps: tuple[str, ...] = ('pooled',)

  def __call__(self, feats: NetFeatures, batch: Batch) -> Terms:
    """Terms: 'ce', 'kd', 'rkd_distance', 'rkd_angle'."""
    met = self.met(feats, ndim=2)
    distances = [losses.relational_distance(s, t) for s, t in met]
    angles = [losses.relational_angle(s, t) for s, t in met]
    return {
      **self.standard(feats, batch),
      'rkd_distance': jnp.stack(distances).sum(),
      'rkd_angle': jnp.stack(angles).sum(),
    }
