"""DeiT: a transformer's distillation token learns the teacher's prediction.

The class token learns the label, and the student predicts by the mean of both
classifiers' logits. The hard target is the teacher's likeliest class, without
label smoothing; the soft one is KD's.

Source: Touvron et al., "Training data-efficient image transformers &
distillation through attention", ICML 2021; deit (losses.py, models.py). The
paper adds the classifiers' probabilities, the code averages their logits, which
we follow. The code's soft loss is divided by K too; we follow the paper there.
"""

from typing import ClassVar

import jax.numpy as jnp

from kd_jax import errors, losses
from kd_jax.features import Batch, NetFeatures, Terms
from kd_jax.methods import base


class Method(base.Method):
  """The method DeiT, for a student with a distillation token.

  The paper's hard loss is half of 'ce' and half of 'distilled'; its soft one
  has the weights 0.9 and 0.1 at T=3.

  Attributes:
    hard: Whether the target of 'distilled' is the teacher's likeliest class,
      and not its softened probabilities.
    temperature: The temperature T of the soft target; the term is multiplied by
      T^2.
  """

  terms: ClassVar = {'ce': ('student',), 'distilled': ('student',)}

  hard: bool = True
  temperature: float = 3.0

  def __call__(self, feats: NetFeatures, batch: Batch) -> Terms:
    """Returns the terms 'ce' and 'distilled'.

    Raises:
      UsageError: The student has no distillation token.
    """
    student, teacher = feats['student'], feats['teacher']['logits']
    if 'distilled_logits' not in student:
      raise errors.UsageError(
        'the student has no distillation token, which deit trains: take '
        'deit_tiny, deit_small or deit_base, or give a ViT the argument '
        'distilled=True'
      )
    distilled = student['distilled_logits']
    return {
      'ce': losses.cross_entropy(student['class_logits'], batch['label']),
      'distilled': losses.cross_entropy(distilled, jnp.argmax(teacher, axis=-1))
      if self.hard
      else losses.kl(distilled, teacher, self.temperature),
    }

  def pairs(self) -> tuple[tuple[str, str], ...]:
    """Returns the pair of logits."""
    return (('logits', 'distilled_logits'),)
