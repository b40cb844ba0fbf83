"""Cross-entropy alone: how teachers, and students without one, are trained."""

from typing import ClassVar

from kd_jax import losses
from kd_jax.features import Batch, NetFeatures, Terms
from kd_jax.methods import base


class Method(base.Method):
  """Cross-entropy on the labels; no teacher."""

  terms: ClassVar = {'ce': ('student',)}
  teachers = ()

  def __call__(self, feats: NetFeatures, batch: Batch) -> Terms:
    """Terms: 'ce'."""
    return {
      'ce': losses.cross_entropy(feats['student']['logits'], batch['label'])
    }
