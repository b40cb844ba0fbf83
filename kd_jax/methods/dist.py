"""DIST: the student's probabilities correlate with the teacher's.

An image's probabilities are correlated over the classes (inter-class), a
class's probabilities over the images of a batch (intra-class). In a dense task
each row of `task.logit_rows` is what an image is here.

Source: Huang et al., "Knowledge Distillation from A Stronger Teacher", NeurIPS
2022; DIST_KD 2418f18 (segmentation/losses/dist_kd.py), which we follow. The
factor T^2 of both terms is that of its classification code, quoted from memory.
"""

from typing import ClassVar

from kd_jax import losses
from kd_jax.features import Batch, NetFeatures, Terms
from kd_jax.methods import base


class Method(base.OfLogits):
  """The method DIST, which has a term for each of its two relations.

  Attributes:
    dist_temperature: The temperature T, by which the logits of 'inter' and
      'intra' are divided; both terms are multiplied by T^2.
  """

  is_dense: ClassVar = True
  terms: ClassVar = {
    'ce': ('student',),
    'kd': ('student',),
    'inter': ('student',),
    'intra': ('student',),
  }

  dist_temperature: float = 1.0

  def __call__(self, feats: NetFeatures, batch: Batch) -> Terms:
    """Returns the terms 'ce', 'kd', 'inter' and 'intra'."""
    rows = self.logit_rows(feats, batch, self.dist_temperature)
    pair = rows.student, rows.teacher
    given = *pair, self.dist_temperature, rows.counted
    return {
      **self.standard(feats, batch),
      'inter': losses.inter_class(*given),
      'intra': losses.intra_class(*given),
    }
