"""AB: the student's activations learn the signs of the teacher's.

Source: Heo et al., "Knowledge Transfer via Distillation of Activation
Boundaries Formed by Hidden Neurons", AAAI 2019; `ABLoss` of RepDistiller
b84f547, which we follow. The method is an initialisation: a first phase trains
all but the classifier with 'ab' alone, a second phase trains with 'ce' alone.
"""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from kd_jax import losses
from kd_jax.features import Batch, NetFeatures, Terms
from kd_jax.methods import adapters, base


class Method(base.WithTaps):
  """The method AB, which compares signs of activations.

  Where the shapes of a pair of maps differ, a connector maps the student's to
  the teacher's.

  Attributes:
    taps: The student's maps before the ReLU, shallow first. The deepest weighs
      1, each shallower map half as much as the next.
    margin: The distance from 0, on the teacher's side, beyond which the
      student's activation costs nothing.
    bn_group_size: The BatchNorm group size of the connectors; see
      `layers.BatchNorm.group_size`.
  """

  is_dense: ClassVar = True
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
    """Returns 'ce', 'kd' and 'ab', a sum over positions and channels."""
    total = jnp.zeros(())
    for i, (s, t) in enumerate(self.met(feats)):
      if s.shape != t.shape:
        teacher_tap, student_tap = self.pairs()[i]
        if adapters.regression(*s.shape[1:3], *t.shape[1:3]) is None:
          raise base.mismatch(
            feats, teacher_tap, student_tap, 'differ too much in size'
          )
        connector = adapters.ConvReg(
          relu=False,
          bn_group_size=self.bn_group_size,
          name=f'connector{i + 1}',
        )
        s = connector(s, t.shape)
      distance = losses.activation_boundary(s, t, self.margin)
      total += distance / 2 ** (len(self.taps) - 1 - i)
    return {**self.standard(feats, batch), 'ab': total}
