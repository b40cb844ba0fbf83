"""AB: the student's neurons learn on which side of 0 the teacher's are.

Source: Heo et al., "Knowledge Transfer via Distillation of Activation
Boundaries Formed by Hidden Neurons", AAAI 2019; `ABLoss` of RepDistiller
b84f547, which we follow. It is an initialisation: a first phase trains all but
the classifier with 'ab' alone, a second one with 'ce' alone
(`config.phases`).
"""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from kd_jax import losses
from kd_jax.features import Batch, NetFeatures, Terms
from kd_jax.methods import adapters, base


class Method(base.WithTaps):
  """AB with cross-entropy; a connector where shapes differ.

  Attributes:
    taps: the student's maps before the ReLU, shallow first; the deepest weighs
      1, each one before it half of the next.
    margin: how far beyond 0 the student shall be.
    bn_group_size: of the connectors; see `layers.BatchNorm.group_size`.
  """

  terms: ClassVar = {
    'ce': ('student',),
    'kd': ('student',),
    'ab': ('student', 'method'),
  }

  taps: tuple[str, ...] = ('stage1_pre', 'stage2_pre', 'stage3_pre')
  margin: float = 1.0
  bn_group_size: int = 0

  @nn.compact
  def __call__(self, feats: NetFeatures, batch: Batch) -> Terms:
    """Terms: 'ce', 'kd', 'ab' (a sum over space and channels)."""
    total = jnp.zeros(())
    for i, (s, t) in enumerate(self.met(feats)):
      if s.shape != t.shape:
        theirs, ours = self.pairs()[i]
        if adapters.regression(*s.shape[1:3], *t.shape[1:3]) is None:
          raise base.mismatch(feats, theirs, ours, 'differ too much in size')
        connector = adapters.ConvReg(
          relu=False,
          bn_group_size=self.bn_group_size,
          name=f'connector{i + 1}',
        )
        s = connector(s, t.shape)
      distance = losses.activation_boundary(s, t, self.margin)
      total += distance / 2 ** (len(self.taps) - 1 - i)
    return {**self.standard(feats, batch), 'ab': total}
