"""Losses over logits: float32 scalars, the mean over the batch.

Where there is an argument `counted`, the rows N may be positions of images, and
the mean is over those that count.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from kd_jax.losses import basic

# What DIST's released code adds to the product of two rows' lengths.
_EPSILON = 1e-8


def classes(labels: jax.Array) -> jax.Array:
  """Returns the class index of each image's label.

  Args:
    labels: Class indices, [N] i32, or class probabilities, [N,K] f32, of which
      the largest counts.

  Returns:
    The class indices, [N] i32.
  """
  return labels if labels.ndim == 1 else labels.argmax(axis=-1)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Returns the mean cross-entropy of logits against labels.

  Args:
    logits: The logits, [N,K] f32.
    labels: Class indices, [N] i32, or class probabilities, [N,K] f32.

  Returns:
    The mean over the batch, [] f32.
  """
  log_q = jax.nn.log_softmax(logits.astype(jnp.float32))
  if labels.ndim == 1:
    labels = jax.nn.one_hot(labels, logits.shape[-1])
  return -(labels * log_q).sum(axis=-1).mean()


def kl_per_image(
  student: jax.Array, teacher: jax.Array, temperature: float
) -> jax.Array:
  """Returns T^2 * KL(teacher || student) of softened logits for each image.

  Args:
    student: The student's logits, [N,K] f32.
    teacher: The teacher's logits, the target, [N,K] f32; no gradient flows to
      them.
    temperature: The temperature T, by which both logits are divided.

  Returns:
    The sum over classes, [N] f32.

  Source: Hinton et al., 2015, section 2; `DistillKL` of RepDistiller b84f547.
  """
  log_q, log_p = _log_softened(student, teacher, temperature)
  return temperature**2 * (jnp.exp(log_p) * (log_p - log_q)).sum(axis=-1)


def kl(
  student: jax.Array,
  teacher: jax.Array,
  temperature: float,
  counted: jax.Array | None = None,
) -> jax.Array:
  """Returns the mean of `kl_per_image` over the batch.

  Args:
    student: The student's logits, [N,K] f32.
    teacher: The teacher's logits, the target, [N,K] f32; no gradient flows to
      them.
    temperature: The temperature T, by which both logits are divided.
    counted: Which rows count, [N] bool; None counts all.

  Returns:
    T^2 * KL(teacher || student), the mean over the rows that count, [] f32; 0
    where none does.
  """
  return _mean(kl_per_image(student, teacher, temperature), counted)


def mean_of_teachers(
  logits: Sequence[jax.Array],
  weights: Sequence[float],
  temperature: float,
  *,
  geometric: bool = False,
) -> jax.Array:
  """Returns logits whose softened probabilities are the mean of the teachers'.

  With the weights w_m, which are divided by their sum, the arithmetic mean is
  softmax(z / T) = sum_m w_m softmax(z_m / T). The geometric mean, which is
  normalised to a sum of 1, is the softmax of the mean of the logits,
  z = sum_m w_m z_m, at every temperature.

  Args:
    logits: The logits of each of M teachers, [N,K] f32.
    weights: The weights of the teachers, M numbers above 0.
    temperature: The temperature T at which the probabilities are averaged.
    geometric: Whether the mean is the geometric one.

  Returns:
    The logits z, [N,K] f32; no gradient flows to them.

  Source: Hinton et al., 2015, section 1, which names both means of the members
  of an ensemble; the arithmetic mean is also that of You et al., "Learning from
  Multiple Teacher Networks", KDD 2017.
  """
  stacked = jax.lax.stop_gradient(jnp.stack(logits).astype(jnp.float32))
  shares = jnp.asarray(weights, jnp.float32)[:, None, None]
  shares = shares / shares.sum()
  if geometric:
    return (shares * stacked).sum(axis=0)
  log_p = jax.nn.log_softmax(stacked / temperature) + jnp.log(shares)
  return temperature * jax.nn.logsumexp(log_p, axis=0)


def guided_kl(
  student: jax.Array,
  teacher: jax.Array,
  guide: jax.Array,
  temperature: float,
) -> jax.Array:
  """Returns `kl` over the images that the guide selects.

  Args:
    student: The student's logits, [N,K] f32.
    teacher: The teacher's logits, the target, [N,K] f32; no gradient flows to
      them.
    guide: Whether an image is selected, [N] bool.
    temperature: The temperature T, by which both logits are divided.

  Returns:
    The mean over the selected images, [] f32; 0 where none is selected.

  Source: Zhou et al., 2020 ("guided knowledge distillation"). Over an empty
  selection their code gives NaN; 0 is our choice.
  """
  return kl(student, teacher, temperature, guide)


def standardized(logits: jax.Array, epsilon: float = 1e-7) -> jax.Array:
  """Returns logits with mean 0 and standard deviation 1 for each image.

  The logits are divided by the unbiased deviation (K-1) plus `epsilon`;
  gradients flow through both moments. Where the logits of an image are all
  equal, the result and its gradient are 0, which is our choice.

  Args:
    logits: The logits, [N,K] f32.
    epsilon: The constant added to the deviation.

  Returns:
    The standardised logits, [N,K] f32.

  Source: Sun et al., CVPR 2024; `normalize` of logit-standardization-KD
  f6e5aa5.
  """
  logits = logits.astype(jnp.float32)
  centred = logits - logits.mean(axis=-1, keepdims=True)
  root = (logits.shape[-1] - 1) ** 0.5
  return root * basic.softened(centred, root * epsilon)


def tckd(
  student: jax.Array,
  teacher: jax.Array,
  labels: jax.Array,
  temperature: float,
  counted: jax.Array | None = None,
) -> jax.Array:
  """Returns DKD's target-class term, the divergence of two-way distributions.

  A distribution has two entries: the probability of the label's class and that
  of all other classes together.

  Args:
    student: The student's logits, [N,K] f32.
    teacher: The teacher's logits, the target, [N,K] f32; no gradient flows to
      them.
    labels: Class indices, [N] i32, or class probabilities, [N,K] f32, of which
      the largest counts.
    temperature: The temperature T, by which both logits are divided.
    counted: Which rows count, [N] bool; None counts all. The label of a row
      that does not must be a class too.

  Returns:
    T^2 * KL(teacher || student), the mean over the rows that count, [] f32; 0
    where none does.

  Source: Zhao et al., CVPR 2022, equation 7; `dkd_loss` of mdistiller a08d46f.
  """
  target = _one_hot(labels, student.shape[-1])
  log_q, log_p = (
    jnp.stack(
      [
        jax.nn.logsumexp(x, axis=-1, where=selected)
        for selected in (target, ~target)
      ],
      axis=-1,
    )
    for x in _log_softened(student, teacher, temperature)
  )
  return temperature**2 * _mean(_divergence(log_q, log_p), counted)


def nckd(
  student: jax.Array,
  teacher: jax.Array,
  labels: jax.Array,
  temperature: float,
  counted: jax.Array | None = None,
) -> jax.Array:
  """Returns DKD's non-target-class term.

  The distributions are those over all classes but the label's.

  Args:
    student: The student's logits, [N,K] f32.
    teacher: The teacher's logits, the target, [N,K] f32; no gradient flows to
      them.
    labels: Class indices, [N] i32, or class probabilities, [N,K] f32, of which
      the largest counts.
    temperature: The temperature T, by which both logits are divided.
    counted: Which rows count, [N] bool; None counts all. The label of a row
      that does not must be a class too.

  Returns:
    T^2 * KL(teacher || student), the mean over the rows that count, [] f32; 0
    where none does.

  Source: Zhao et al., CVPR 2022, equation 7; `dkd_loss` of mdistiller a08d46f.
  """
  others = ~_one_hot(labels, student.shape[-1])
  log_q, log_p = (
    _log_softmax_where(x / temperature, others)
    for x in (
      student.astype(jnp.float32),
      jax.lax.stop_gradient(teacher.astype(jnp.float32)),
    )
  )
  return temperature**2 * _mean(_divergence(log_q, log_p), counted)


def inter_class(
  student: jax.Array,
  teacher: jax.Array,
  temperature: float,
  counted: jax.Array | None = None,
) -> jax.Array:
  """Returns DIST's inter-class term.

  It correlates the student's and the teacher's probabilities of an image, over
  the classes.

  Args:
    student: The student's logits, [N,K] f32.
    teacher: The teacher's logits, the target, [N,K] f32; no gradient flows to
      them.
    temperature: The temperature T, by which both logits are divided.
    counted: Which rows count, [N] bool; None counts all.

  Returns:
    T^2 * (1 - Pearson's correlation), the mean over the rows that count,
    [] f32; T^2, with the gradient 0, where none does.

  Source: Huang et al., NeurIPS 2022, equation 9; `inter_class_relation` of
  DIST_KD 2418f18. The factor T^2 is that of its classification code, quoted
  from memory.
  """
  q, p = (jnp.exp(x) for x in _log_softened(student, teacher, temperature))
  return temperature**2 * (1 - _mean(_correlation(q, p), counted))


def intra_class(
  student: jax.Array,
  teacher: jax.Array,
  temperature: float,
  counted: jax.Array | None = None,
) -> jax.Array:
  """Returns DIST's intra-class term.

  It correlates the student's and the teacher's probabilities of a class, over
  the images of the batch.

  Args:
    student: The student's logits, [N,K] f32.
    teacher: The teacher's logits, the target, [N,K] f32; no gradient flows to
      them.
    temperature: The temperature T, by which both logits are divided.
    counted: Which rows count, [N] bool; None counts all.

  Returns:
    T^2 * (1 - Pearson's correlation), the mean over classes, [] f32; T^2, with
    the gradient 0, where no row counts.

  Source: Huang et al., NeurIPS 2022, equation 10; `intra_class_relation` of
  DIST_KD 2418f18. The factor T^2 is that of its classification code, quoted
  from memory.
  """
  q, p = (jnp.exp(x) for x in _log_softened(student, teacher, temperature))
  return temperature**2 * (1 - _correlation(q.T, p.T, counted).mean())


def _one_hot(labels: jax.Array, count: int) -> jax.Array:
  """Returns the one-hot encoding of the images' classes, [N,K] bool."""
  return jax.nn.one_hot(classes(labels), count, dtype=bool)


def _divergence(log_q: jax.Array, log_p: jax.Array) -> jax.Array:
  """Returns KL(p || q) from log-probabilities, [N] f32, each [N,K] f32.

  The sum of q - p is 0 but for rounding, most of which it takes from the sum of
  the logarithms: by itself that is off by 1e-7, much of a small divergence.
  """
  q, p = jnp.exp(log_q), jnp.exp(log_p)
  return (p * (log_p - log_q) + (q - p)).sum(axis=-1)


def _log_softmax_where(x: jax.Array, where: jax.Array) -> jax.Array:
  """Returns the log-probabilities among some classes, and 0 at the others.

  The others' logits never meet an exponential: it could overflow, and infinity
  times 0 would be the gradient.

  Args:
    x: The logits, [N,K] f32.
    where: The classes that count, [N,K] bool.

  Returns:
    The log-probabilities, [N,K] f32.
  """
  total = jax.nn.logsumexp(x, axis=-1, where=where, keepdims=True)
  return jnp.where(where, x - total, 0.0)


def _log_softened(
  student: jax.Array, teacher: jax.Array, temperature: float
) -> tuple[jax.Array, jax.Array]:
  """Returns both networks' log-probabilities of softened logits.

  Args:
    student: The student's logits, [N,K] f32.
    teacher: The teacher's logits, [N,K] f32.
    temperature: The temperature, by which both logits are divided.

  Returns:
    The student's and the teacher's log-probabilities, each [N,K] f32; no
    gradient flows through the teacher's.
  """
  student = student.astype(jnp.float32)
  teacher = jax.lax.stop_gradient(teacher.astype(jnp.float32))
  return (
    jax.nn.log_softmax(student / temperature),
    jax.nn.log_softmax(teacher / temperature),
  )


def _mean(values: jax.Array, counted: jax.Array | None) -> jax.Array:
  """Returns the mean of values [N] over those that count, [N] bool or all."""
  if counted is None:
    return values.mean()
  return jnp.where(counted, values, 0.0).sum() / jnp.maximum(counted.sum(), 1)


def _correlation(
  a: jax.Array, b: jax.Array, counted: jax.Array | None = None
) -> jax.Array:
  """Returns Pearson's correlation of the rows of two matrices.

  Where a row is constant, the result and its gradient are 0, which is our
  choice.

  Args:
    a: A matrix, [M,n] f32.
    b: Another matrix, [M,n] f32.
    counted: Which columns count, [n] bool; None counts all.

  Returns:
    The correlation of each pair of rows, [M] f32.
  """
  a, b = (_centred(x, counted) for x in (a, b))
  lengths = basic.length(a) * basic.length(b)
  return (a * b).sum(axis=-1) / (lengths[:, 0] + _EPSILON)


def _centred(x: jax.Array, counted: jax.Array | None) -> jax.Array:
  """Returns rows [M,n] without their means; what does not count is 0."""
  if counted is None:
    return x - x.mean(axis=-1, keepdims=True)
  total = jnp.where(counted[None], x, 0.0).sum(axis=-1, keepdims=True)
  return jnp.where(
    counted[None], x - total / jnp.maximum(counted.sum(), 1), 0.0
  )
