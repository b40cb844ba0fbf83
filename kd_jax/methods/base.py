"""The base classes of distillation methods."""

from collections.abc import Sequence
import re
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax import domains, errors, features, losses, tasks
from kd_jax.features import Batch, NetFeatures, Terms
from kd_jax.methods import projectors
from kd_jax.tasks import classification


class Method(nn.Module):
  """A distillation method, which computes losses from networks' features.

  A method is a Linen module. It owns its adapters (connectors, projectors,
  pyramids), whose widths are inferred from the features at `init`. Its `apply`
  is a pure function of its arguments. `stop_gradient` determines which network
  learns from which.

  A subclass defines `terms`, `students` and `teachers` as class variables, or
  as properties where they depend on the constructor's arguments.

  Attributes:
    terms: The parameter groups that each loss term trains: names of networks,
      and 'method' for the adapters.
    students: The networks that the method trains. Of several, the deployed one
      is first.
    teachers: The frozen networks whose features the method reads.
    reconstructed: A note that is shown beside the method's results where it
      does not follow the paper's own code; otherwise ''.
  """

  terms: ClassVar[dict[str, tuple[str, ...]]] = {}
  students: ClassVar[tuple[str, ...]] = ('student',)
  teachers: ClassVar[tuple[str, ...]] = ('teacher',)
  reconstructed: ClassVar[str] = ''

  task: tasks.Task = classification.Classification()
  # Whether the last of `taps` is the last map before pooling, after its ReLU:
  # where a configuration names no taps, they are chosen from the networks.
  reads_last_map: ClassVar[bool] = False
  # Whether the method compares a single pair of taps.
  takes_one_tap: ClassVar[bool] = False
  # Whether the method also distils tasks with a target for each position, such
  # as segmentation: it compares maps, and leaves labels to the task.
  is_dense: ClassVar[bool] = False

  # Whether each image must be of one class, so that mixtures are refused. A
  # smoothed label still has its class, the largest entry (`losses.classes`).
  needs_class: ClassVar[bool] = False

  def __post_init__(self):
    """Raises UsageError where a value is not in its field's domain."""
    values = {
      name: getattr(self, name)
      for name in domains.METHODS.keys() & self.__dataclass_fields__.keys()
    }
    domains.check_fields(type(self), values, domains.METHODS)
    super().__post_init__()

  def __call__(self, feats: NetFeatures, batch: Batch) -> Terms:
    """Returns the unweighted value of every term.

    Args:
      feats: The features of every network.
      batch: The batch from which they were computed.

    Returns:
      A scalar [] f32 for each name in `terms`.
    """
    raise NotImplementedError

  def predict(self, feats: NetFeatures) -> dict[str, jax.Array]:
    """Returns what the method predicts.

    Args:
      feats: The features of every network.

    Returns:
      What `task.outputs` returns, in classification the logits [N,K] f32, by
      the network's name; the deployed network is first.
    """
    return {'student': self.task.outputs(feats['student'])}

  def measure(self, name: str, value: jax.Array) -> None:
    """Logs a scalar that is not a loss, under 'method/<name>'."""
    self.sow(
      'metrics',
      name,
      value,
      init_fn=lambda: None,
      reduce_fn=lambda _, new: new,
    )

  def pairs(self) -> tuple[tuple[str, str], ...]:
    """Returns the pairs (teacher tap, student tap) that are compared."""
    return ()


class WithTeacher(Method):
  """A method with a teacher, and with the terms 'ce' and 'kd'.

  Every such method can thus be combined with KD by setting a weight.

  Attributes:
    temperature: The temperature T of the term 'kd'.
  """

  temperature: float = 4.0

  def standard(self, feats: NetFeatures, batch: Batch) -> Terms:
    """Returns the terms 'ce' and 'kd' of the student's own classifier."""
    student, teacher = feats['student'], feats['teacher']
    return {
      'ce': self.task.supervised(student, batch),
      'kd': self.task.distilled(student, teacher, batch, self.temperature),
    }


class OfLogits(WithTeacher):
  """A method that reads nothing but logits, of which several teachers may be.

  The mean of several teachers' probabilities is what the one teacher's
  probabilities are; see `losses.mean_of_teachers`. Which mean and which weights
  are best is not known beforehand: equal weights of the arithmetic mean are
  those of Hinton et al., 2015, and of You et al., KDD 2017.

  Attributes:
    teachers: The names of the teachers.
    teacher_weights: The weight of each teacher in the mean; () is equal.
    mean_of: 'probabilities' (softened; the arithmetic mean), or 'logits' (the
      geometric mean of the probabilities).
  """

  teachers: tuple[str, ...] = ('teacher',)  # type: ignore[misc]
  teacher_weights: tuple[float, ...] = ()
  mean_of: str = 'probabilities'

  def __post_init__(self):
    """Raises UsageError where names, weights or the mean are not allowed."""
    at_least(self.teachers, 1, 'teachers')
    check_names(self.teachers, 'teachers', self.students)
    if len(self.teacher_weights) not in (0, len(self.teachers)):
      raise errors.ArgumentError(
        f'teacher_weights={self.teacher_weights}: give a number above 0 for '
        f'each of teachers={self.teachers}, or () for equal weights'
      )
    if self.mean_of not in ('probabilities', 'logits'):
      choices = ('probabilities', 'logits')
      raise errors.unknown('value of mean_of:', self.mean_of, choices)
    super().__post_init__()

  def logit_rows(
    self,
    feats: NetFeatures,
    batch: Batch,
    temperature: float,
    *,
    standardize: bool = False,
  ) -> tasks.LogitRows:
    """Returns the task's `logit_rows`, of several teachers their mean.

    Args:
      feats: The features of every network.
      batch: The batch from which they were computed.
      temperature: The temperature T at which probabilities are averaged.
      standardize: Whether each row of logits is standardised first; see
        `losses.standardized`.
    """
    given = [
      self.task.logit_rows(feats['student'], feats[name], batch)
      for name in self.teachers
    ]
    student, logits = given[0].student, [rows.teacher for rows in given]
    if standardize:
      student, *logits = map(losses.standardized, (student, *logits))
    return given[0]._replace(
      student=student, teacher=self._mean(logits, temperature)
    )

  def _mean(self, logits: list[jax.Array], temperature: float) -> jax.Array:
    """Returns the mean of the teachers' logits, [R,K] f32."""
    if len(logits) == 1:
      return logits[0]
    return losses.mean_of_teachers(
      logits,
      self.teacher_weights or (1.0,) * len(logits),
      temperature,
      geometric=self.mean_of == 'logits',
    )

  def taught(self, feats: NetFeatures) -> features.Features:
    """Returns the one teacher's features, or the mean of several as 'logits'.

    Args:
      feats: The features of every network.

    Raises:
      UsageError: There are several teachers, and the task is not
        classification.
    """
    if len(self.teachers) == 1:
      return feats[self.teachers[0]]
    if self.task.name != 'classification':
      raise errors.ArgumentError(
        f'teachers={self.teachers}: the mean is that of one vector of logits '
        f'an image, and the task is {self.task.name}: give one teacher'
      )
    logits = [feats[name]['logits'] for name in self.teachers]
    mean = self._mean(logits, self.temperature)
    return features.Features('teacher', {'logits': mean})

  def standard(self, feats: NetFeatures, batch: Batch) -> Terms:
    """Returns the terms 'ce' and 'kd' of the student's own classifier."""
    taught = self.taught(feats)
    return super().standard({**feats, 'teacher': taught}, batch)

  def pairs(self) -> tuple[tuple[str, str], ...]:
    """Returns the pair of logits."""
    return (('logits', 'logits'),)


class WithTaps(WithTeacher):
  """A method that compares pairs of a student's tap and a teacher's tap.

  Attributes:
    taps: The student's taps, shallow first.
    teacher_taps: The teacher's taps, one for each of the student's; () stands
      for the student's names.
  """

  taps: tuple[str, ...] = ('stage1', 'stage2', 'stage3')
  teacher_taps: tuple[str, ...] = ()

  def __post_init__(self):
    """Raises UsageError where the taps cannot be paired."""
    if self.takes_one_tap and len(self.taps) > 1:
      raise errors.ArgumentError(
        f'taps={tuple(self.taps)}: give a single tap, such as '
        f'{(self.taps[-1],)!r}'
      )
    paired(self.taps, self.teacher_taps, 'taps')
    super().__post_init__()

  def pairs(self) -> tuple[tuple[str, str], ...]:
    """Returns the pairs (teacher tap, student tap), shallow first."""
    tap_pairs = paired(self.taps, self.teacher_taps, 'taps')
    return tuple((teacher, student) for student, teacher in tap_pairs)

  def met(
    self, feats: NetFeatures, ndim: int = 4
  ) -> list[tuple[jax.Array, jax.Array]]:
    """Returns the features of the pairs; see the function `met`."""
    return met(feats, self.pairs(), ndim)


class WithTeachersClassifier(WithTaps):
  """A method whose student predicts through the teacher's classifier.

  The student's own classifier is not used: prediction, 'ce' and 'kd' go
  through projectors and the teacher's classifier, which is frozen.

  Attributes:
    taps: The student's last map before pooling and after its ReLU, a single
      tap. It is 'stage3_post' for a pre-activation network.
    teacher_taps: The map that the teacher pools; () stands for the student's.
    factor: See `projectors.Projector.factor`; a larger factor costs less.
    dtype: The dtype in which the projectors compute.
    bn_group_size: See `projectors.Projector.bn_group_size`.
  """

  reads_last_map: ClassVar[bool] = True
  takes_one_tap: ClassVar[bool] = True

  taps: tuple[str, ...] = ('stage3',)
  factor: int = 2
  dtype: jnp.dtype = jnp.float32
  bn_group_size: int = 0

  @property
  def count(self) -> int:
    """The number of projectors."""
    return 1

  def setup(self):
    """Creates the projectors, which training and prediction share."""
    self.reused = projectors.ReusedClassifier(
      self.count, self.factor, self.dtype, self.bn_group_size
    )

  def reuse(
    self, feats: NetFeatures, *, train: bool
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the output of `ReusedClassifier` for the pair of taps.

    Args:
      feats: The features of both networks.
      train: Whether the projectors' BatchNorm uses batch statistics.

    Returns:
      The projected map, [N,h,w,c] f32, its target, [N,h,w,c] f32, and the
      logits, [N,K] f32.

    Raises:
      UsageError: A tap is not a map, or not the last one, or `factor` does not
        divide the channels of the teacher's map.
    """
    ((teacher_tap, student_tap),) = self.pairs()
    check_last(feats, 'teacher', teacher_tap, 'teacher_taps')
    check_last(feats, 'student', student_tap, 'taps')
    ((student, teacher),) = self.met(feats)
    return self.reused(
      student, teacher, feats['teacher']['params'], train=train
    )

  def distilled(
    self, feats: NetFeatures, batch: Batch
  ) -> tuple[Terms, jax.Array]:
    """Returns the losses of the student through the teacher's classifier.

    Args:
      feats: The features of both networks.
      batch: The batch from which they were computed.

    Returns:
      The terms 'ce' and 'kd', and the MSE of the projected map and its target,
      [] f32.
    """
    projected, target, logits = self.reuse(feats, train=True)
    standard = {
      'ce': losses.cross_entropy(logits, batch['label']),
      'kd': losses.kl(logits, feats['teacher']['logits'], self.temperature),
    }
    return standard, losses.mse(projected, target)

  def predict(self, feats: NetFeatures) -> dict[str, jax.Array]:
    """Returns the teacher's logits for the student's projected features."""
    return {'student': self.reuse(feats, train=False)[-1]}


def paired(
  ours: Sequence[Any], theirs: Sequence[Any], what: str
) -> tuple[tuple[Any, Any], ...]:
  """Returns the student's taps (or stages) paired with the teacher's.

  Args:
    ours: The student's taps, shallow first.
    theirs: The teacher's taps; empty stands for the student's.
    what: The name of the argument that gives the student's.

  Returns:
    The pairs (student tap, teacher tap).

  Raises:
    UsageError: There are no taps, or the two numbers of taps differ.
  """
  at_least(tuple(ours), 1, what)
  if len(theirs) not in (0, len(ours)):
    raise errors.ArgumentError(
      f'{what}={tuple(ours)} and teacher_{what}='
      f'{tuple(theirs)} must have as many values, a pair each; () takes the '
      "student's"
    )
  return tuple(zip(ours, theirs or ours, strict=True))


def met(
  feats: NetFeatures, pairs: Sequence[tuple[str, str]], ndim: int = 4
) -> list[tuple[jax.Array, jax.Array]]:
  """Returns the student's and the teacher's features for each pair of taps.

  No gradient flows to the teacher's features.

  Args:
    feats: The features of both networks.
    pairs: The pairs (teacher tap, student tap), as returned by `Method.pairs`.
    ndim: The number of axes: 4 for maps [N,H,W,C], 2 for vectors [N,C].

  Returns:
    The pairs (student's features, teacher's features), both f32.

  Raises:
    UsageError: The features of a tap do not have `ndim` axes.
  """
  found = []
  for teacher_tap, student_tap in pairs:
    s, t = feats['student'][student_tap], feats['teacher'][teacher_tap]
    if {s.ndim, t.ndim} != {ndim}:
      kind = {4: 'maps [N,H,W,C]', 2: 'vectors [N,C]'}[ndim]
      raise mismatch(feats, teacher_tap, student_tap, f'must be {kind}')
    found.append((s, jax.lax.stop_gradient(t)))
  return found


def check_last(feats: NetFeatures, network: str, name: str, what: str) -> None:
  """Checks that a tap is not a raw sum that the network then normalises.

  Args:
    feats: The features of every network.
    network: The network.
    name: Its tap, which is to be the last map after its ReLU.
    what: The name of the argument that gives it.

  Raises:
    UsageError: It is a map before the network's last norm.
  """
  if post := features.after_activation(feats[network], name):
    raise errors.ArgumentError(
      f'{what}={name!r}: {name} of the {network} is a raw sum before the last '
      'norm (and ReLU), and what follows expects the map after it: name '
      f'{post!r} in its place'
    )


def mismatch(
  feats: NetFeatures, teacher: str, student: str, what: str
) -> errors.UsageError:
  """Returns the error for a pair of taps that cannot be compared.

  Args:
    feats: The features of both networks.
    teacher: The teacher's tap.
    student: The student's tap.
    what: What the two shapes, which precede it in the message, must satisfy.

  Returns:
    The error, for the caller to raise.
  """
  s, t = feats['student'][student].shape, feats['teacher'][teacher].shape
  return errors.UsageError(
    f"the teacher's {teacher} {t[1:]} and the student's {student} {s[1:]} "
    f'{what}; choose other taps or another pair of networks'
  )


def at_least(names: tuple[Any, ...], count: int, what: str) -> None:
  """Checks that there are enough names.

  Args:
    names: The names.
    count: The least number of names.
    what: The name of the argument that gives them.

  Raises:
    UsageError: There are fewer than `count` names.
  """
  if len(names) < count:
    raise errors.ArgumentError(f'{what}={names}: give {count} or more')


def check_names(
  names: tuple[str, ...], what: str, others: tuple[str, ...] = ()
) -> None:
  """Checks the names of networks, which are those of groups and of folders.

  Args:
    names: The names.
    what: The name of the argument that gives them.
    others: The names of the method's other networks.

  Raises:
    UsageError: A name is no word, is there twice or is another's.
  """
  for i, name in enumerate(names):
    if not (
      isinstance(name, str) and re.fullmatch('[A-Za-z][A-Za-z0-9_]*', name)
    ):
      raise errors.ArgumentError(
        f'{what}={names}: give names of letters, digits and _, such as '
        "('small', 'large')"
      )
    if name in (*names[:i], *others, 'method'):
      raise errors.ArgumentError(
        f'{what}={names}: {name!r} is the name of something else; give each '
        'network a name of its own'
      )
