"""FSP: the student's flow between layers approaches the teacher's.

Source: Yim et al., "A Gift from Knowledge Distillation", CVPR 2017; `FSP` of
RepDistiller b84f547, which we follow. The method is an initialisation: a first
phase trains all but the classifier with 'fsp' alone, a second phase trains with
'ce' alone.
"""

import itertools
from typing import ClassVar

import jax.numpy as jnp

from kd_jax import losses
from kd_jax.features import Batch, NetFeatures, Terms
from kd_jax.methods import base


class Method(base.WithTaps):
  """The method FSP, which compares the flow between successive taps.

  The two maps of a pair must have the same number of channels.

  Attributes:
    taps: The student's maps, shallow first, two or more.
  """

  is_dense: ClassVar = True
  terms: ClassVar = {
    'ce': ('student',),
    'kd': ('student',),
    'fsp': ('student',),
  }

  taps: tuple[str, ...] = ('stem', 'stage1', 'stage2', 'stage3')

  def __post_init__(self):
    """Raises UsageError where there are fewer than two taps."""
    base.at_least(self.taps, 2, 'taps')
    super().__post_init__()

  def __call__(self, feats: NetFeatures, batch: Batch) -> Terms:
    """Returns 'ce', 'kd' and 'fsp', the sum over successive taps."""
    maps = self.met(feats)
    for (s, t), pair in zip(maps, self.pairs(), strict=True):
      if s.shape[-1] != t.shape[-1]:
        raise base.mismatch(feats, *pair, 'must have the same channels')
    distances = [
      losses.mse(losses.flow(s1, s2), losses.flow(t1, t2))
      for (s1, t1), (s2, t2) in itertools.pairwise(maps)
    ]
    return {
      **self.standard(feats, batch),
      'fsp': jnp.stack(distances).sum(),
    }
