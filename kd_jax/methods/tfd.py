"""TFD: deep features teach shallow ones of the same network; no teacher.

Source: Li et al., IJCNN 2022. Only its abstract is public; it describes the
inter-layer half of Tf-FD word for word, so TFD is RECONSTRUCTED as that half of
the released Tf-FD code (Teacher-free-Distillation 3427f98, train_kd.py). Its
weight (5e-3, the code's argparse default) and its warm-up (20 epochs) are our
choice, and so are the stages of networks with more than three.
"""

from typing import ClassVar

from kd_jax import losses
from kd_jax.features import Batch, NetFeatures, Terms
from kd_jax.methods import base


class Method(base.Method):
  """The inter-layer half of teacher-free feature distillation, with CE.

  Attributes:
    taps: the maps, shallow first; every pair counts, the deeper teaches.
  """

  terms: ClassVar = {'ce': ('student',), 'inter': ('student',)}
  teachers: ClassVar = ()
  reconstructed: ClassVar = (
    'TFD is a reconstruction: the paper publishes an abstract only; it is the '
    "inter-layer half of Tf-FD's code with a weight of our choice"
  )

  taps: tuple[str, ...] = ('stage1', 'stage2', 'stage3')

  def __post_init__(self):
    """Raises UsageError where there is no pair of maps."""
    base.at_least(self.taps, 2, 'tfd: taps')
    super().__post_init__()

  def __call__(self, feats: NetFeatures, batch: Batch) -> Terms:
    """Terms: 'ce', 'inter' (the mean over pairs)."""
    student = feats['student']
    return {
      'ce': losses.cross_entropy(student['logits'], batch['label']),
      'inter': losses.inter_layers([student[name] for name in self.taps]),
    }
