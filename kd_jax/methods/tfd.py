"""TFD: deep features of a network teach its shallow ones, without a teacher.

Source: Li et al., IJCNN 2022. Only the abstract is public. It describes the
inter-layer half of Tf-FD word for word, so TFD is RECONSTRUCTED as that half of
the released Tf-FD code (Teacher-free-Distillation 3427f98, train_kd.py). The
weight (5e-3, the code's argparse default), the warm-up (20 epochs) and the
stages of networks with more than three are our choice.
"""

from typing import ClassVar

from kd_jax import losses
from kd_jax.features import Batch, NetFeatures, Terms
from kd_jax.methods import base


class Method(base.Method):
  """The method TFD, the inter-layer half of Tf-FD.

  Attributes:
    taps: The maps, shallow first. In every pair the deeper map teaches the
      shallower.
  """

  is_dense: ClassVar = True
  terms: ClassVar = {'ce': ('student',), 'inter': ('student',)}
  teachers: ClassVar = ()
  reconstructed: ClassVar = (
    'TFD is a reconstruction: the paper publishes an abstract only; it is the '
    "inter-layer half of Tf-FD's code with a weight of our choice"
  )

  taps: tuple[str, ...] = ('stage1', 'stage2', 'stage3')

  def __post_init__(self):
    """Raises UsageError where there are fewer than two taps."""
    base.at_least(self.taps, 2, 'tfd: taps')
    super().__post_init__()

  def __call__(self, feats: NetFeatures, batch: Batch) -> Terms:
    """Returns 'ce' and 'inter', the mean over pairs."""
    student = feats['student']
    return {
      'ce': self.task.supervised(student, batch),
      'inter': losses.inter_layers([student[name] for name in self.taps]),
    }
