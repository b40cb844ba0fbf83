"""CE: cross-entropy alone, for teachers and for students without a teacher."""

from typing import ClassVar

from kd_jax.features import Batch, NetFeatures, Terms
from kd_jax.methods import base


class Method(base.Method):
  """The method CE, which trains on the labels without a teacher."""

  is_dense: ClassVar = True
  terms: ClassVar = {'ce': ('student',)}
  teachers = ()

  def __call__(self, feats: NetFeatures, batch: Batch) -> Terms:
    """Returns the term 'ce'."""
    return {'ce': self.task.supervised(feats['student'], batch)}
