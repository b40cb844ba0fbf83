"""OFD: a comprehensive overhaul of feature distillation.

The student's maps before the ReLU pass through a connector and the teacher's
through a margin ReLU; a partial L2 distance compares them.

Source: Heo et al., ICCV 2019; overhaul-distillation 76344a8
(CIFAR-100/distiller.py and Segmentation/distiller.py), which we follow. Its
WideResNets run the tapped BatchNorm twice per step, so that the running
statistics are updated twice. Here networks run once, which changes no loss. Its
segmentation teacher drops units of the decoder; here a teacher drops none.
"""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax import errors, losses
from kd_jax.features import Batch, NetFeatures, Terms
from kd_jax.methods import adapters, base
from kd_jax.models import read_params


class Method(base.WithTeacher):
  """The method OFD, which compares maps before the ReLU.

  The weight of 'ofd' multiplies the distance's sum over an image: 1e-3 on
  CIFAR, 1e-4 on ImageNet. In the paper the teacher runs on batch statistics:
  make it with `batch_norm='batch'`. Of two maps of different sizes
  the larger is averaged to the smaller. mdistiller's port does so where the
  teacher's map is larger; the paper's maps have equal sizes.

  Attributes:
    stages: The student's stages whose maps are compared, shallow first; of a
      DeepLab, 'aspp' and 'decoder' are stages too.
    teacher_stages: The teacher's stages, one for each of the student's; ()
      stands for the student's.
    divisors: What the distance of each stage is divided by; () divides the last
      by 1, and each stage by twice as much as the next.
    bn_group_size: The BatchNorm group size of the connectors; see
      `layers.BatchNorm.group_size`.
  """

  is_dense: ClassVar = True
  terms: ClassVar = {
    'ce': ('student',),
    'kd': ('student',),
    'ofd': ('student', 'method'),
  }

  stages: tuple[int | str, ...] = (1, 2, 3)
  teacher_stages: tuple[int | str, ...] = ()
  divisors: tuple[float, ...] = ()
  bn_group_size: int = 0

  def __post_init__(self):
    """Raises UsageError where stages or divisors cannot be paired."""
    base.paired(self.stages, self.teacher_stages, 'stages')
    if len(self.divisors) not in (0, len(self.stages)):
      raise errors.ArgumentError(
        f'divisors={self.divisors}: there are {len(self.stages)} stages; give '
        'a divisor for each, or () for powers of 2'
      )
    super().__post_init__()

  @nn.compact
  def __call__(self, feats: NetFeatures, batch: Batch) -> Terms:
    """Returns 'ce', 'kd' and 'ofd', the weighted sum over stages."""
    teacher = feats['teacher']
    features = base.met(feats, self.pairs())
    stages = base.paired(self.stages, self.teacher_stages, 'stages')
    halving = tuple(2**i for i in reversed(range(len(stages))))
    total = jnp.zeros(())
    for (s, t), (student_stage, teacher_stage), divisor in zip(
      features, stages, self.divisors or halving, strict=True
    ):
      scale, bias = read_params.last_bn(teacher['params'], teacher_stage)
      margin = jax.lax.stop_gradient(losses.margin(scale, bias))
      s, t = losses.aligned(s, t)
      connector = adapters.Connector(
        self.bn_group_size, name=f'connector{student_stage}'
      )
      distance = losses.partial_l2(connector(s, t.shape[-1]), t, margin)
      total += distance / divisor
    return {**self.standard(feats, batch), 'ofd': total}

  def pairs(self) -> tuple[tuple[str, str], ...]:
    """Returns the pairs of taps before each stage's last ReLU."""
    stages = base.paired(self.stages, self.teacher_stages, 'stages')
    return tuple((_tap(theirs), _tap(ours)) for ours, theirs in stages)


def _tap(stage: int | str) -> str:
  return f'{stage}_pre' if isinstance(stage, str) else f'stage{stage}_pre'
