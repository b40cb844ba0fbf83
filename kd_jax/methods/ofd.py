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

from kd_jax import losses
from kd_jax.features import Batch, NetFeatures, Terms
from kd_jax.methods import adapters, base
from kd_jax.models import read_params


class Method(base.WithTeacher):
  """OFD with cross-entropy.

  The weight of 'ofd' multiplies the distance's sum over an image: 1e-3 on
  CIFAR, 1e-4 on ImageNet. The teacher runs on batch statistics in the paper:
  set `config.teacher.args.batch_norm='batch'`. Of two maps of different sizes
  the larger is averaged to the smaller (mdistiller's port, which does so where
  the teacher's is larger; the paper's pairs are equal).

  Attributes:
    stages: the student's stages whose maps meet, shallow first; the deepest
      weighs 1, each one before it half of the next.
    teacher_stages: the teacher's, one for each; () is the same.
    bn_group_size: of the connectors; see `layers.BatchNorm.group_size`.
  """

  terms: ClassVar = {
    'ce': ('student',),
    'kd': ('student',),
    'ofd': ('student', 'method'),
  }

  stages: tuple[int, ...] = (1, 2, 3)
  teacher_stages: tuple[int, ...] = ()
  bn_group_size: int = 0

  def __post_init__(self):
    """Raises UsageError where stages cannot be paired."""
    base.paired(self.stages, self.teacher_stages, 'stages')
    super().__post_init__()

  @nn.compact
  def __call__(self, feats: NetFeatures, batch: Batch) -> Terms:
    """Terms: 'ce', 'kd', 'ofd'."""
    teacher = feats['teacher']
    met = base.met(feats, self.pairs())
    stages = base.paired(self.stages, self.teacher_stages, 'stages')
    total = jnp.zeros(())
    for i, ((s, t), (ours, theirs)) in enumerate(zip(met, stages, strict=True)):
      scale, bias = read_params.last_bn(teacher['params'], theirs)
      margin = jax.lax.stop_gradient(losses.margin(scale, bias))
      s, t = losses.aligned(s, t)
      connector = adapters.Connector(
        self.bn_group_size, name=f'connector{ours}'
      )
      distance = losses.partial_l2(connector(s, t.shape[-1]), t, margin)
      total += distance / 2 ** (len(self.stages) - 1 - i)
    return {**self.standard(feats, batch), 'ofd': total}

  def pairs(self) -> tuple[tuple[str, str], ...]:
    """Each stage's map before its last ReLU, of the teacher and the student."""
    return tuple(
      (f'stage{theirs}_pre', f'stage{ours}_pre')
      for ours, theirs in base.paired(
        self.stages, self.teacher_stages, 'stages'
      )
    )
