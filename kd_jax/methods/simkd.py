"""SimKD: the student's features, projected, enter the teacher's classifier.

Source: Chen et al., "Knowledge Distillation with the Reused Teacher
Classifier", CVPR 2022; SimKD 2b389c3, which we follow. Where the two maps
differ in size the larger is averaged to the smaller, even if the larger is the
target.
"""

from typing import ClassVar

from kd_jax.features import Batch, NetFeatures, Terms
from kd_jax.methods import base


class Method(base.WithTeachersClassifier):
  """The method SimKD, which by default learns from maps, without labels."""

  terms: ClassVar = {
    'ce': ('student', 'method'),
    'kd': ('student', 'method'),
    'simkd': ('student', 'method'),
  }

  def __call__(self, feats: NetFeatures, batch: Batch) -> Terms:
    """Returns 'ce', 'kd' and 'simkd', the MSE of the maps."""
    standard, distance = self.distilled(feats, batch)
    return {**standard, 'simkd': distance}
