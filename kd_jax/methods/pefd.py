"""PEFD: the mean of several projections of the student matches the teacher.

Source: Chen et al., "Improved Feature Distillation via Projector Ensemble",
NeurIPS 2022; PEFD 7f1e2de (helper/loops.py, models/util.py), which we follow.
"""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from kd_jax import losses
from kd_jax.features import Batch, NetFeatures, Terms
from kd_jax.methods import base
from kd_jax.models import layers


class Method(base.WithTaps):
  """The method PEFD, which projects pooled features through an ensemble.

  Attributes:
    taps: The student's vectors that are projected, a single tap.
    projectors: The number of projectors, each a linear layer with ReLU.
  """

  takes_one_tap: ClassVar = True
  terms: ClassVar = {
    'ce': ('student',),
    'kd': ('student',),
    'pefd': ('student', 'method'),
  }

  taps: tuple[str, ...] = ('pooled',)
  projectors: int = 3

  @nn.compact
  def __call__(self, feats: NetFeatures, batch: Batch) -> Terms:
    """Returns 'ce', 'kd' and 'pefd', the mean of 1 minus the cosine."""
    ((student, teacher),) = self.met(feats, ndim=2)
    projected = [
      nn.relu(layers.Linear(teacher.shape[-1], name=f'projector{i}')(student))
      for i in range(self.projectors)
    ]
    mean = jnp.stack(projected).mean(axis=0)
    return {
      **self.standard(feats, batch),
      'pefd': losses.cosine_distance(mean, teacher),
    }
