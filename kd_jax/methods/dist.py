"""DIST: the student's probabilities correlate with the teacher's.

By image, over the classes (inter-class), and by class, over the images of a
batch (intra-class).

Source: Huang et al., "Knowledge Distillation from A Stronger Teacher", NeurIPS
2022; DIST_KD 2418f18 (segmentation/losses/dist_kd.py), which we follow. That
both terms are times T^2 is recalled of its classification code.
"""

from typing import ClassVar

from kd_jax import losses
from kd_jax.features import Batch, NetFeatures, Terms
from kd_jax.methods import base


class Method(base.WithTeacher):
  """DIST with cross-entropy; its two relations are two terms.

  Attributes:
    dist_temperature: T, by which the logits of 'inter' and 'intra' are
      divided; both terms are times T^2.
  """

  terms: ClassVar = {
    'ce': ('student',),
    'kd': ('student',),
    'inter': ('student',),
    'intra': ('student',),
  }

  dist_temperature: float = 1.0

  def __call__(self, feats: NetFeatures, batch: Batch) -> Terms:
    """Terms: 'ce', 'kd', 'inter', 'intra'."""
    student = feats['student']['logits']
    teacher = feats['teacher']['logits']
    return {
      **self.standard(feats, batch),
      'inter': losses.inter_class(student, teacher, self.dist_temperature),
      'intra': losses.intra_class(student, teacher, self.dist_temperature),
    }

  def pairs(self) -> tuple[tuple[str, str], ...]:
    """The logits meet."""
    return (('logits', 'logits'),)
