"""DML: students that differ learn from the labels and from each other.

For K students with the probabilities p_i, the loss of student i is
L_i = CE_i + 1/(K-1) * sum over j != i of KL(p_j || p_i), at temperature 1; p_j
is a constant there. The paper updates one student after the other, each with
the new predictions of those before it. Here all are updated in one step from
the predictions before it, which is our choice. No student is the teacher, and
the paper reports all of them; we deploy the first.

Source: Zhang et al., "Deep Mutual Learning", CVPR 2018, equations 1 to 7; no
code of the authors was at hand.
"""

import jax
import jax.numpy as jnp

from kd_jax import losses
from kd_jax.features import Batch, NetFeatures, Terms
from kd_jax.methods import base


class Method(base.Method):
  """The method DML, with two or more students and no teacher.

  Attributes:
    students: The names of the students, which may be networks of any kind; the
      first is deployed.
  """

  teachers = ()

  students: tuple[str, ...] = ('student_0', 'student_1')  # type: ignore[misc]

  def __post_init__(self):
    """Raises UsageError for fewer than two students, or for wrong names."""
    base.at_least(self.students, 2, 'students')
    base.check_names(self.students, 'students')
    super().__post_init__()

  @property
  def terms(self) -> dict[str, tuple[str, ...]]:  # type: ignore[override]
    """The parameter groups that each term trains: all students."""
    return {'ce': self.students, 'mutual': self.students}

  def __call__(self, feats: NetFeatures, batch: Batch) -> Terms:
    """Returns the terms 'ce' and 'mutual', summed over the students."""
    logits = [feats[name]['logits'] for name in self.students]
    ce = [losses.cross_entropy(z, batch['label']) for z in logits]
    mutual = [
      losses.kl(z, other, 1.0) / (len(logits) - 1)
      for i, z in enumerate(logits)
      for j, other in enumerate(logits)
      if i != j
    ]
    return {'ce': jnp.stack(ce).sum(), 'mutual': jnp.stack(mutual).sum()}

  def predict(self, feats: NetFeatures) -> dict[str, jax.Array]:
    """Returns the students' logits by name, the deployed one's first."""
    return {name: feats[name]['logits'] for name in self.students}
