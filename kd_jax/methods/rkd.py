"""RKD: the student keeps the teacher's distances and angles between images.

Source: Park et al., "Relational Knowledge Distillation", CVPR 2019;
RepDistiller b84f547 (distiller_zoo/RKD.py), which we follow. Its factors 25
and 50 of distance and angle are the weights of the two terms here.
"""

from typing import ClassVar

import jax.numpy as jnp

from kd_jax import losses
from kd_jax.features import Batch, NetFeatures, Terms
from kd_jax.methods import base


class Method(base.WithTaps):
  """The method RKD, which sums distance and angle losses over taps."""

  is_dense: ClassVar = True
  terms: ClassVar = {
    'ce': ('student',),
    'kd': ('student',),
    'rkd_distance': ('student',),
    'rkd_angle': ('student',),
  }

  taps: tuple[str, ...] = ('pooled',)

  def __call__(self, feats: NetFeatures, batch: Batch) -> Terms:
    """Returns the terms 'ce', 'kd', 'rkd_distance' and 'rkd_angle'."""
    vectors = self.met(feats, ndim=2)
    distances = [losses.relational_distance(s, t) for s, t in vectors]
    angles = [losses.relational_angle(s, t) for s, t in vectors]
    return {
      **self.standard(feats, batch),
      'rkd_distance': jnp.stack(distances).sum(),
      'rkd_angle': jnp.stack(angles).sum(),
    }
