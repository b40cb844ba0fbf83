"""KD: the teacher's softened logits are the student's target.

Several teachers are averaged to one; see `base.OfLogits`.

Source: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015;
weights and temperature are those of RepDistiller b84f547 (0.1 CE + 0.9 KD,
T=4). With standardised logits: Sun et al., CVPR 2024; logit-standardization-KD
f6e5aa5 (0.1 CE + 9 KD, T=2).
"""

from typing import ClassVar

from kd_jax import losses
from kd_jax.features import Batch, NetFeatures, Terms
from kd_jax.methods import base


class Method(base.OfLogits):
  """The method KD, which adds the KL divergence of softened logits to CE.

  Attributes:
    temperature: The temperature T, by which both logits are divided; the term
      is multiplied by T^2.
    standardize: Whether each image's logits are standardised to mean 0 and
      deviation 1 first; in a dense task those of each row of `task.logit_rows`,
      and the term is a mean over the rows that count.
  """

  is_dense: ClassVar = True
  terms: ClassVar = {'ce': ('student',), 'kd': ('student',)}

  standardize: bool = False

  def __call__(self, feats: NetFeatures, batch: Batch) -> Terms:
    """Returns the terms 'ce' and 'kd'."""
    if not self.standardize:
      return self.standard(feats, batch)
    rows = self.logit_rows(feats, batch, self.temperature, standardize=True)
    pair = rows.student, rows.teacher
    kd = losses.kl(*pair, self.temperature, rows.counted)
    ce = self.task.supervised(feats['student'], batch)
    return {'ce': ce, 'kd': kd}
