"""PICS: integrated projectors connect the student to the teacher's classifier.

Source: Zuo et al., "Projector integration and classifier sharing", Complex &
Intelligent Systems 2024. This is a RECONSTRUCTION: only the paper's abstract
and introduction are public. The projectors are those of SimKD (2b389c3); they
are integrated by the mean of their outputs, as in PEFD (NeurIPS 2022). Their
number, their size and the distance are our choice. With a single projector,
PICS is SimKD.
"""

from typing import ClassVar

from kd_jax.features import Batch, NetFeatures, Terms
from kd_jax.methods import base


class Method(base.WithTeachersClassifier):
  """The method PICS, reconstructed as the module's docstring describes.

  Attributes:
    projectors: M, the number of projectors.
  """

  terms: ClassVar = {
    'ce': ('student', 'method'),
    'kd': ('student', 'method'),
    'pics': ('student', 'method'),
  }
  reconstructed: ClassVar = (
    'PICS is a reconstruction: of the paper only abstract and introduction are '
    "public; it is the mean of SimKD's projectors"
  )

  projectors: int = 3

  @property
  def count(self) -> int:
    """The number of projectors."""
    return self.projectors

  def __call__(self, feats: NetFeatures, batch: Batch) -> Terms:
    """Returns 'ce', 'kd' and 'pics', the MSE of the maps."""
    standard, distance = self.distilled(feats, batch)
    return {**standard, 'pics': distance}
