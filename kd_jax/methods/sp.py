"""SP: the student learns the teacher's similarities between images.

Source: Tung & Mori, "Similarity-Preserving Knowledge Distillation", ICCV 2019;
RepDistiller b84f547 (distiller_zoo/SP.py), which we follow: it compares only
the last map, where the paper's sum may run over several pairs of layers.
"""

from typing import ClassVar

import jax.numpy as jnp

from kd_jax import losses
from kd_jax.features import Batch, NetFeatures, Terms
from kd_jax.methods import base


class Method(base.WithTaps):
  """The method SP, which sums the similarities' distances over taps."""

  is_dense: ClassVar = True
  terms: ClassVar = {'ce': ('student',), 'kd': ('student',), 'sp': ('student',)}

  taps: tuple[str, ...] = ('stage3',)

  def __call__(self, feats: NetFeatures, batch: Batch) -> Terms:
    """Returns 'ce', 'kd' and 'sp', the sum over taps."""
    distances = [losses.similarity_preserving(s, t) for s, t in self.met(feats)]
    return {**self.standard(feats, batch), 'sp': jnp.stack(distances).sum()}
