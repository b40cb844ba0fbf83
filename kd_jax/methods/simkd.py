"""SimKD: the student's features, projected, enter the teacher's classifier.

Source: Chen et al., "Knowledge Distillation with the Reused Teacher
Classifier", CVPR 2022; SimKD 2b389c3, which we follow. Of maps of different
sizes the larger is averaged to the smaller, also where it is the target.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp

from kd_jax import losses
from kd_jax.features import Batch, NetFeatures, Terms
from kd_jax.methods import base
from kd_jax.models import projectors


class Method(base.WithTaps):
  """SimKD: only the features learn, by default; labels are not used.

  The student's own classifier is not used: prediction, 'ce' and 'kd' go
  through the projector and the teacher's classifier, which is frozen.

  Attributes:
    taps: the student's last map before pooling, after its ReLU; one tap. It
      is 'stage3_post' or the like where a network has such a tap.
    factor: see `projectors.Projector.factor`; a greater one is cheaper.
    dtype: what the projector computes in.
  """

  terms: ClassVar = {
    'ce': ('student', 'method'),
    'kd': ('student', 'method'),
    'simkd': ('student', 'method'),
  }

  taps: tuple[str, ...] = ('stage3',)
  factor: int = 2
  dtype: jnp.dtype = jnp.float32

  def setup(self):
    """Makes what training and prediction share."""
    self.reused = projectors.ReusedClassifier(1, self.factor, self.dtype)

  def __call__(self, feats: NetFeatures, batch: Batch) -> Terms:
    """Terms: 'ce', 'kd', 'simkd' (the MSE of the maps)."""
    projected, target, logits = self._reuse(feats, train=True)
    return {
      'ce': losses.cross_entropy(logits, batch['label']),
      'kd': losses.kl(logits, feats['teacher']['logits'], self.temperature),
      'simkd': losses.mse(projected, target),
    }

  def predict(self, feats: NetFeatures) -> dict[str, jax.Array]:
    """The teacher's classifier on the student's projected features."""
    return {'student': self._reuse(feats, train=False)[-1]}

  def _reuse(self, feats, *, train):
    ((student, teacher),) = self.met(feats)
    return self.reused(
      student, teacher, feats['teacher']['params'], train=train
    )
