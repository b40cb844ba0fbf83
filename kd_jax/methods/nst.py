"""NST: the student's channels match the teacher's channels in distribution.

Source: Huang & Wang, "Like What You Like: Knowledge Distill via Neuron
Selectivity Transfer", 2017; RepDistiller b84f547 (distiller_zoo/NST.py), which
we follow: it uses the squared polynomial kernel, on every stage.
"""

from typing import ClassVar

import jax.numpy as jnp

from kd_jax import losses
from kd_jax.features import Batch, NetFeatures, Terms
from kd_jax.methods import base


class Method(base.WithTaps):
  """The method NST, which sums the channels' discrepancies over taps."""

  is_dense: ClassVar = True
  terms: ClassVar = {
    'ce': ('student',),
    'kd': ('student',),
    'nst': ('student',),
  }

  def __call__(self, feats: NetFeatures, batch: Batch) -> Terms:
    """Returns 'ce', 'kd' and 'nst', the sum over taps."""
    discrepancies = [
      losses.neuron_selectivity(*losses.aligned(s, t))
      for s, t in self.met(feats)
    ]
    return {
      **self.standard(feats, batch),
      'nst': jnp.stack(discrepancies).sum(),
    }
