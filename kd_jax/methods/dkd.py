"""DKD: KD decoupled into the label's class and all other classes.

In a dense task each row of `task.logit_rows` is what an image is here.

Source: Zhao et al., "Decoupled Knowledge Distillation", CVPR 2022; mdistiller
a08d46f (mdistiller/distillers/DKD.py), which we follow; the weight of 'dkd' is
warmed up over 20 epochs (see configs/dkd.py).
"""

from typing import ClassVar

from kd_jax import losses
from kd_jax.features import Batch, NetFeatures, Terms
from kd_jax.methods import base


class Method(base.OfLogits):
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

  is_dense: ClassVar = True
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
    rows = self.logit_rows(
      feats, batch, self.temperature, standardize=self.standardize
    )
    pair = rows.student, rows.teacher
    target, others = (
      loss(*pair, rows.label, self.temperature, rows.counted)
      for loss in (losses.tckd, losses.nckd)
    )
    dkd = self.alpha * target + self.beta * others
    return {**self.standard(feats, batch), 'dkd': dkd}
