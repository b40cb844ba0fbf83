"""PICS: several integrated projectors lead to the teacher's classifier.

Source: Zuo et al., "Projector integration and classifier sharing", Complex &
Intelligent Systems 2024. A RECONSTRUCTION: of the paper only abstract and
introduction are public. The projectors are those of SimKD (2b389c3), integrated
by the mean of their outputs, as PEFD (NeurIPS 2022) integrates projectors;
their number, their size and the distance are our choice. With one projector it
is SimKD.
"""

from typing import ClassVar

from kd_jax import errors
from kd_jax.features import Batch, NetFeatures, Terms
from kd_jax.methods import base


class Method(base.WithTeachersClassifier):
  """PICS (reconstructed; see the module's head).

  Attributes:
    projectors: how many (M).
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

  def __post_init__(self):
    """Raises UsageError where there is no projector."""
    if self.projectors < 1:
      raise errors.UsageError(
        f'config.method_args.projectors={self.projectors}: give 1 or more'
      )
    super().__post_init__()

  @property
  def count(self) -> int:
    """How many projectors there are."""
    return self.projectors

  def __call__(self, feats: NetFeatures, batch: Batch) -> Terms:
    """Terms: 'ce', 'kd', 'pics' (the MSE of the maps)."""
    standard, distance = self.distilled(feats, batch)
    return {**standard, 'pics': distance}
