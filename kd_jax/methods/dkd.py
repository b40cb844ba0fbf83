"""DKD: KD decoupled into the label's class and all other classes.

Source: Zhao et al., "Decoupled Knowledge Distillation", CVPR 2022; mdistiller
a08d46f (mdistiller/distillers/DKD.py), which we follow; the weight of 'dkd' is
warmed up over 20 epochs (see configs/dkd.py).
"""

from typing import ClassVar

from kd_jax import losses
from kd_jax.features import Batch, NetFeatures, Terms
from kd_jax.methods import base


class Method(base.WithTeacher):
  """The method DKD, which weighs the two parts of KD separately.

  Attributes:
    temperature: The temperature T of 'dkd' and 'kd', whose terms are multiplied
      by T^2.
    alpha: The weight of the target-class part.
    beta: The weight of the part of the other classes, from 2 to 8 depending on
      the pair of networks.
    standardize: Whether each image's logits are standardised to mean 0 and
      deviation 1 for 'dkd' (Sun et al., CVPR 2024).
  """

  terms: ClassVar = {
    'ce': ('student',),
    'kd': ('student',),
    'dkd': ('student',),
  }

  needs_class: ClassVar = True  # the target of its two parts

  alpha: float = 1.0
  beta: float = 8.0
  standardize: bool = False

  def __call__(self, feats: NetFeatures, batch: Batch) -> Terms:
    """Returns the terms 'ce', 'kd' and 'dkd'."""
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
    """Returns the pair of logits."""
    return (('logits', 'logits'),)
