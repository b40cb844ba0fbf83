"""PKT: the student learns the teacher's neighbour probabilities of images.

Source: Passalis & Tefas, "Learning Deep Representations with Probabilistic
Knowledge Transfer", ECCV 2018; RepDistiller b84f547 (distiller_zoo/PKT.py),
which we follow: it takes the mean over pairs, where the paper has the sum.
"""

from typing import ClassVar

import jax.numpy as jnp

from kd_jax import losses
from kd_jax.features import Batch, NetFeatures, Terms
from kd_jax.methods import base


class Method(base.WithTaps):
  """The method PKT, which sums the neighbourhoods' divergences over taps.

  Attributes:
    epsilon: The constant added to lengths and to probabilities.
  """

  is_dense: ClassVar = True
  terms: ClassVar = {
    'ce': ('student',),
    'kd': ('student',),
    'pkt': ('student',),
  }

  taps: tuple[str, ...] = ('pooled',)
  epsilon: float = 1e-7

  def __call__(self, feats: NetFeatures, batch: Batch) -> Terms:
    """Returns 'ce', 'kd' and 'pkt', the sum over taps."""
    divergences = [
      losses.probabilistic_transfer(s, t, self.epsilon)
      for s, t in self.met(feats, ndim=2)
    ]
    return {**self.standard(feats, batch), 'pkt': jnp.stack(divergences).sum()}
