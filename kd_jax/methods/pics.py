"""PICS: several integrated projectors lead to the teacher's classifier.

Source: Zuo et al., "Projector integration and classifier sharing", Complex &
Intelligent Systems 2024. A RECONSTRUCTION: of the paper only abstract and
introduction are public. The projectors are those of SimKD (2b389c3), integrated
by the mean of their outputs, as PEFD (NeurIPS 2022) integrates projectors;
their number, their size and the distance are our choice. With one projector it
is SimKD.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp

from kd_jax import errors, losses
from kd_jax.features import Batch, NetFeatures, Terms
from kd_jax.methods import base
from kd_jax.models import projectors


class Method(base.WithTaps):
  """PICS (reconstructed; see the module's head).

  The student's own classifier is not used: prediction, 'ce' and 'kd' go
  through the projectors and the teacher's classifier, which is frozen.

  Attributes:
    taps: the student's last map before pooling, after its ReLU; one tap. It
      is 'stage3_post' or the like where a network has such a tap.
    projectors: how many (M).
    factor: of their size (r); a greater one is cheaper.
    dtype: what the projectors compute in.
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

  taps: tuple[str, ...] = ('stage3',)
  projectors: int = 3
  factor: int = 2
  dtype: jnp.dtype = jnp.float32

  def __post_init__(self):
    """Raises UsageError where there is no projector."""
    if self.projectors < 1:
      raise errors.UsageError(
        f'config.method_args.projectors={self.projectors}: give 1 or more'
      )
    super().__post_init__()

  def setup(self):
    """Makes what training and prediction share."""
    self.reused = projectors.ReusedClassifier(
      self.projectors, self.factor, self.dtype
    )

  def __call__(self, feats: NetFeatures, batch: Batch) -> Terms:
    """Terms: 'ce', 'kd', 'pics' (the MSE of the maps)."""
    projected, target, logits = self._reuse(feats, train=True)
    return {
      'ce': losses.cross_entropy(logits, batch['label']),
      'kd': losses.kl(logits, feats['teacher']['logits'], self.temperature),
      'pics': losses.mse(projected, target),
    }

  def predict(self, feats: NetFeatures) -> dict[str, jax.Array]:
    """The teacher's classifier on the student's projected features."""
    return {'student': self._reuse(feats, train=False)[-1]}

  def _reuse(self, feats, *, train):
    ((student, teacher),) = self.met(feats)
    return self.reused(
      student, teacher, feats['teacher']['params'], train=train
    )
