"""AT: the student's attention maps approach the teacher's.

Source: Zagoruyko & Komodakis, "Paying More Attention to Attention", ICLR 2017;
RepDistiller b84f547 (distiller_zoo/AT.py), which we follow: squared distances
are averaged over positions, where the paper takes the length of the difference.
"""

from typing import ClassVar

import jax.numpy as jnp

from kd_jax import losses
from kd_jax.features import Batch, NetFeatures, Terms
from kd_jax.methods import base


class Method(base.WithTaps):
  """The method AT, which sums the attention maps' distances over taps."""

  is_dense: ClassVar = True
  terms: ClassVar = {'ce': ('student',), 'kd': ('student',), 'at': ('student',)}

  def __call__(self, feats: NetFeatures, batch: Batch) -> Terms:
    """Returns 'ce', 'kd' and 'at', the sum over taps."""
    distances = [
      losses.attention_transfer(*losses.aligned(s, t))
      for s, t in self.met(feats)
    ]
    return {**self.standard(feats, batch), 'at': jnp.stack(distances).sum()}
