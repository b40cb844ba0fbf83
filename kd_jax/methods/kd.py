"""KD: the teacher's softened logits are the student's target.

Several teachers are averaged to one; see `base.OfLogits`.

Source: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015;
weights and temperature are those of RepDistiller b84f547 (0.1 CE + 0.9 KD,
T=4). With standardised logits: Sun et al., CVPR 2024; logit-standardization-KD
f6e5aa5 (0.1 CE + 9 KD, T=2).
"""

from typing import ClassVar

from kd_jax import errors, losses
from kd_jax.features import Batch, NetFeatures, Terms
from kd_jax.methods import base


class Method(base.OfLogits):
  """The method KD, which adds the KL divergence of softened logits to CE.

  Attributes:
    temperature: The temperature T, by which both logits are divided; the term
      is multiplied by T^2.
    standardize: Whether each image's logits are standardised to mean 0 and
      deviation 1 first.
  """

  is_dense: ClassVar = True
  terms: ClassVar = {'ce': ('student',), 'kd': ('student',)}

  standardize: bool = False

  def __call__(self, feats: NetFeatures, batch: Batch) -> Terms:
    """Returns the terms 'ce' and 'kd'."""
    if not self.standardize:
      return self.standard(feats, batch)
    student = feats['student']
    if self.task.name != 'classification':
      raise errors.ArgumentError(
        'standardize=True standardises the logits of a whole image, and the '
        f'task is {self.task.name}: give False'
      )
    kd = losses.kl(
      losses.standardized(student['logits']),
      self.taught(feats, self.temperature, standardize=True)['logits'],
      self.temperature,
    )
    return {'ce': self.task.supervised(student, batch), 'kd': kd}
