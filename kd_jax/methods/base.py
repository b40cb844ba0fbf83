"""What a distillation method is."""

from collections.abc import Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax import errors, losses
from kd_jax.features import Batch, NetFeatures, Terms
from kd_jax.methods import projectors


class Method(nn.Module):
  """A pure loss over the features of the networks.

  A method is a Linen module: it owns its adapters (connectors, projectors,
  pyramids), whose widths are inferred from the features at `init`, and its
  `apply` depends on nothing but its arguments. `stop_gradient` says who learns
  from whom.

  A class gives `terms`, `students` and `teachers` as class variables, or as
  properties where they depend on its arguments.

  Attributes:
    terms: for each loss term, the parameter groups that it trains: network
      names and 'method' (the adapters).
    students: the networks that it trains.
    teachers: the frozen networks whose features it reads.
    reconstructed: said beside its results where it is not the paper's own code.
  """

  terms: ClassVar[dict[str, tuple[str, ...]]] = {}
  students: ClassVar[tuple[str, ...]] = ('student',)
  teachers: ClassVar[tuple[str, ...]] = ('teacher',)
  reconstructed: ClassVar[str] = ''

  def __call__(self, feats: NetFeatures, batch: Batch) -> Terms:
    """Every term of `terms`, unweighted, each a scalar f32."""
    raise NotImplementedError

  def predict(self, feats: NetFeatures) -> dict[str, jax.Array]:
    """Logits [N,K] by name; the first is the deployed network."""
    return {'student': feats['student']['logits']}

  def measure(self, name: str, value: jax.Array) -> None:
    """Logs a scalar that is no loss, as 'method/<name>'."""
    self.sow(
      'metrics',
      name,
      value,
      init_fn=lambda: None,
      reduce_fn=lambda _, new: new,
    )

  def pairs(self) -> tuple[tuple[str, str], ...]:
    """Which teacher tap meets which student tap."""
    return ()


class WithTeacher(Method):
  """A method with a teacher: it has the terms 'ce' and 'kd' beside its own.

  So that any of them can be combined with KD by a weight.

  Attributes:
    temperature: KD's T.
  """

  temperature: float = 4.0

  def standard(self, feats: NetFeatures, batch: Batch) -> Terms:
    """The terms 'ce' and 'kd' of the student's own logits."""
    student = feats['student']['logits']
    teacher = feats['teacher']['logits']
    return {
      'ce': losses.cross_entropy(student, batch['label']),
      'kd': losses.kl(student, teacher, self.temperature),
    }


class WithTaps(WithTeacher):
  """A method whose student's taps meet the teacher's, pair by pair.

  Attributes:
    taps: of the student, shallow first.
    teacher_taps: of the teacher, one for each; () is the same names.
  """

  taps: tuple[str, ...] = ('stage1', 'stage2', 'stage3')
  teacher_taps: tuple[str, ...] = ()

  def __post_init__(self):
    """Raises UsageError where taps cannot be paired."""
    paired(self.taps, self.teacher_taps, 'taps')
    super().__post_init__()

  def pairs(self) -> tuple[tuple[str, str], ...]:
    """The teacher's tap and the student's, for each pair."""
    both = paired(self.taps, self.teacher_taps, 'taps')
    return tuple((theirs, ours) for ours, theirs in both)

  def met(
    self, feats: NetFeatures, ndim: int = 4
  ) -> list[tuple[jax.Array, jax.Array]]:
    """See the function `met`."""
    return met(feats, self.pairs(), ndim)


class WithTeachersClassifier(WithTaps):
  """A method whose student predicts through the teacher's classifier.

  The student's own classifier is not used: prediction, 'ce' and 'kd' go
  through projectors and the teacher's classifier, which is frozen.

  Attributes:
    taps: the student's last map before pooling, after its ReLU; one tap. It
      is 'stage3_post' or the like where a network has such a tap.
    factor: see `projectors.Projector.factor`; a greater one is cheaper.
    dtype: what the projectors compute in.
    bn_group_size: see `projectors.Projector.bn_group_size`.
  """

  taps: tuple[str, ...] = ('stage3',)
  factor: int = 2
  dtype: jnp.dtype = jnp.float32
  bn_group_size: int = 0

  @property
  def count(self) -> int:
    """How many projectors there are."""
    return 1

  def setup(self):
    """Makes what training and prediction share."""
    self.reused = projectors.ReusedClassifier(
      self.count, self.factor, self.dtype, self.bn_group_size
    )

  def reuse(
    self, feats: NetFeatures, *, train: bool
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The projected map, its target and logits; see `ReusedClassifier`."""
    ((student, teacher),) = self.met(feats)
    return self.reused(
      student, teacher, feats['teacher']['params'], train=train
    )

  def distilled(
    self, feats: NetFeatures, batch: Batch
  ) -> tuple[Terms, jax.Array]:
    """The terms 'ce' and 'kd', and the mean squared distance of the maps."""
    projected, target, logits = self.reuse(feats, train=True)
    standard = {
      'ce': losses.cross_entropy(logits, batch['label']),
      'kd': losses.kl(logits, feats['teacher']['logits'], self.temperature),
    }
    return standard, losses.mse(projected, target)

  def predict(self, feats: NetFeatures) -> dict[str, jax.Array]:
    """The teacher's classifier on the student's projected features."""
    return {'student': self.reuse(feats, train=False)[-1]}


def paired(
  ours: Sequence[Any], theirs: Sequence[Any], what: str
) -> tuple[tuple[Any, Any], ...]:
  """The student's taps with the teacher's, or with themselves.

  Args:
    ours: of the student, shallow first.
    theirs: of the teacher; empty is the same as the student's.
    what: the argument's name in `config.method_args`.

  Raises:
    UsageError: where there is none, or not as many of both.
  """
  at_least(tuple(ours), 1, f'config.method_args.{what}')
  if len(theirs) not in (0, len(ours)):
    raise errors.UsageError(
      f'config.method_args.{what}={tuple(ours)} and teacher_{what}='
      f'{tuple(theirs)} must have as many values, a pair each; () takes the '
      "student's"
    )
  return tuple(zip(ours, theirs or ours, strict=True))


def met(
  feats: NetFeatures, pairs: Sequence[tuple[str, str]], ndim: int = 4
) -> list[tuple[jax.Array, jax.Array]]:
  """The student's and the teacher's features of each pair.

  No gradient flows to the teacher's.

  Args:
    feats: of both networks.
    pairs: as `Method.pairs`: the teacher's tap, the student's tap.
    ndim: 4 for maps [N,H,W,C], 2 for vectors [N,C].

  Raises:
    UsageError: where one is no map, or no vector.
  """
  found = []
  for theirs, ours in pairs:
    s, t = feats['student'][ours], feats['teacher'][theirs]
    if {s.ndim, t.ndim} != {ndim}:
      kind = {4: 'maps [N,H,W,C]', 2: 'vectors [N,C]'}[ndim]
      raise mismatch(feats, theirs, ours, f'must be {kind}')
    found.append((s, jax.lax.stop_gradient(t)))
  return found


def mismatch(
  feats: NetFeatures, teacher: str, student: str, what: str
) -> errors.UsageError:
  """The error for a pair of taps that cannot meet, with both shapes."""
  s, t = feats['student'][student].shape, feats['teacher'][teacher].shape
  return errors.UsageError(
    f"the teacher's {teacher} {t[1:]} and the student's {student} {s[1:]} "
    f'{what}; choose other taps (config.method_args) or another pair of '
    'networks'
  )


def at_least(names: tuple[Any, ...], count: int, what: str) -> None:
  """Raises UsageError where there are fewer than `count` names."""
  if len(names) < count:
    raise errors.UsageError(f'{what}={names}: give {count} or more')
