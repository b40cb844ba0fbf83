"""FitNet: the student's map, through a convolution, approaches the teacher's.

Source: Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015;
RepDistiller b84f547 (`HintLoss`, `ConvReg`), which we follow: the hint
and the cross-entropy train together, where the paper trains the hint first, and
the regressor ends with BatchNorm and ReLU.
"""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from kd_jax import losses
from kd_jax.features import Batch, NetFeatures, Terms
from kd_jax.methods import adapters, base


class Method(base.WithTaps):
  """The method FitNet, which computes the mean squared distance of hints.

  The teacher's map may have any number of channels. It must be as large as the
  student's, smaller, or exactly twice as large. With several taps the distances
  are added; the released code has a single tap.

  Attributes:
    bn_group_size: The BatchNorm group size of the regressors; see
      `layers.BatchNorm.group_size`.
  """

  is_dense: ClassVar = True
  terms: ClassVar = {
    'ce': ('student',),
    'kd': ('student',),
    'fitnet': ('student', 'method'),
  }

  taps: tuple[str, ...] = ('stage2',)
  bn_group_size: int = 0

  @nn.compact
  def __call__(self, feats: NetFeatures, batch: Batch) -> Terms:
    """Returns 'ce', 'kd' and 'fitnet', the sum over taps."""
    total = jnp.zeros(())
    pairs = zip(self.met(feats), self.pairs(), strict=True)
    for i, ((s, t), taps) in enumerate(pairs):
      if adapters.regression(*s.shape[1:3], *t.shape[1:3]) is None:
        raise base.mismatch(
          feats,
          *taps,
          "must have sizes of which the student's is half the teacher's, the "
          'same or larger',
        )
      regressor = adapters.ConvReg(
        bn_group_size=self.bn_group_size, name=f'regressor{i}'
      )
      total += losses.mse(regressor(s, t.shape), t)
    return {**self.standard(feats, batch), 'fitnet': total}
