"""DKD: KD taken apart into the label's class and all the others.

Source: Zhao et al., "Decoupled Knowledge Distillation", CVPR 2022; mdistiller
a08d46f (mdistiller/distillers/DKD.py), which we follow; its weight is warmed up
over 20 epochs (see configs/dkd.py).
"""

from typing import ClassVar

from kd_jax import losses
from kd_jax.features import Batch, NetFeatures, Terms
from kd_jax.methods import base


class Method(base.WithTeacher):
  """DKD with cross-entropy.

  Attributes:
    temperature: T of 'dkd' and of 'kd', whose terms are times T^2.
    alpha: the target-class term's weight.
    beta: the weight of the term of the other classes; 2 to 8, by the pair.
    standardize: both logits of 'dkd' first get mean 0 and deviation 1, per
      image (Sun et al., CVPR 2024).
  """

  terms: ClassVar = {
    'ce': ('student',),
    'kd': ('student',),
    'dkd': ('student',),
  }

  alpha: float = 1.0
  beta: float = 8.0
  standardize: bool = False

  def __call__(self, feats: NetFeatures, batch: Batch) -> Terms:
    """Terms: 'ce', 'kd', 'dkd'."""
    student = feats['student']['logits']
    teacher = feats['teacher']['logits']
    if self.standardize:
      student, teacher = map(losses.standardized, (student, teacher))
    target, others = (
      loss(student, teacher, batch['label'], self.temperature)
      for loss in (losses.tckd, losses.nckd)
    )
    dkd = self.alpha * target + self.beta * others
    return {**self.standard(feats, batch), 'dkd': dkd}

  def pairs(self) -> tuple[tuple[str, str], ...]:
    """The logits meet."""
    return (('logits', 'logits'),)
