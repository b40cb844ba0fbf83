"""OFD: a comprehensive overhaul of feature distillation.

The student's maps before the ReLU, through a connector, approach the teacher's
through a margin ReLU, by a partial L2 distance.

Source: Heo et al., ICCV 2019; overhaul-distillation 76344a8
(CIFAR-100/distiller.py), which we follow. Its WRNs run the BatchNorm that they
tap twice a step, so that its running statistics move twice; here networks run
once, which changes no loss.
"""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax import errors, losses
from kd_jax.features import Batch, NetFeatures, Terms
from kd_jax.methods import base
from kd_jax.models import adapters, resnet


class Method(base.Method):
  """OFD with cross-entropy.

  The weight of 'ofd' multiplies the distance's sum over an image: 1e-3 on
  CIFAR, 1e-4 on ImageNet. The teacher runs on batch statistics in the paper:
  set `config.teacher.args.batch_norm='batch'`.

  Attributes:
    stages: the stages whose maps meet, shallow first; the deepest weighs 1,
      each one before it half of the next.
  """

  terms: ClassVar = {'ce': ('student',), 'ofd': ('student', 'method')}

  stages: tuple[int, ...] = (1, 2, 3)

  @nn.compact
  def __call__(self, feats: NetFeatures, batch: Batch) -> Terms:
    """Terms: 'ce', 'ofd'."""
    student, teacher = feats['student'], feats['teacher']
    total = jnp.zeros(())
    for i, stage in enumerate(self.stages):
      name = f'stage{stage}_pre'
      s, t = student[name], jax.lax.stop_gradient(teacher[name])
      if s.shape[1:3] != t.shape[1:3]:
        raise errors.UsageError(
          f"ofd: the teacher's {name} {t.shape[1:]} and the student's "
          f'{s.shape[1:]} must have the same height and width; choose other '
          'stages (config.method_args.stages) or another pair of networks'
        )
      scale, bias = resnet.last_bn(teacher['params'], stage)
      margin = jax.lax.stop_gradient(losses.margin(scale, bias))
      connected = adapters.Connector(name=f'connector{stage}')(s, t.shape[-1])
      distance = losses.partial_l2(connected, t, margin)
      total += distance / 2 ** (len(self.stages) - 1 - i)
    return {
      'ce': losses.cross_entropy(student['logits'], batch['label']),
      'ofd': total,
    }

  def pairs(self) -> tuple[tuple[str, str], ...]:
    """Each stage's map before its last ReLU meets its namesake."""
    return tuple((f'stage{i}_pre', f'stage{i}_pre') for i in self.stages)
