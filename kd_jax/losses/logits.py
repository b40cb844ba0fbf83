"""Losses over logits [N,K]: float32, scalar, mean over the batch."""

import jax
import jax.numpy as jnp


def classes(labels: jax.Array) -> jax.Array:
  """Class indices [N] i32 of labels [N] i32 or [N,K] f32 (the likeliest)."""
  return labels if labels.ndim == 1 else labels.argmax(axis=-1)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Mean cross-entropy of logits [N,K] against labels [N] i32 or [N,K] f32."""
  log_q = jax.nn.log_softmax(logits.astype(jnp.float32))
  if labels.ndim == 1:
    labels = jax.nn.one_hot(labels, logits.shape[-1])
  return -(labels * log_q).sum(axis=-1).mean()


def kl_per_image(
  student: jax.Array, teacher: jax.Array, temperature: float
) -> jax.Array:
  """T^2 * KL(teacher || student) of softened logits [N,K]: one value [N] each.

  The sum runs over classes. `teacher` is the target: no gradient flows to it.

  Source: Hinton et al., 2015, section 2; `DistillKL` of RepDistiller b84f547.
  """
  log_q, log_p = _log_softened(student, teacher, temperature)
  return temperature**2 * (jnp.exp(log_p) * (log_p - log_q)).sum(axis=-1)


def kl(student: jax.Array, teacher: jax.Array, temperature: float) -> jax.Array:
  """T^2 * KL(teacher || student), summed over classes, mean over the batch."""
  return kl_per_image(student, teacher, temperature).mean()


def guided_kl(
  student: jax.Array,
  teacher: jax.Array,
  guide: jax.Array,
  temperature: float,
) -> jax.Array:
  """`kl` over the images with guide [N] true; 0 where there is none.

  Source: Zhou et al., 2020 ("guided knowledge distillation"). Over an empty
  selection their code gives NaN; 0 is our choice.
  """
  each = jnp.where(guide, kl_per_image(student, teacher, temperature), 0.0)
  return each.sum() / jnp.maximum(guide.sum(), 1)


def standardized(logits: jax.Array, epsilon: float = 1e-7) -> jax.Array:
  """Each image's logits [N,K] with mean 0 and standard deviation 1, f32.

  The deviation is the unbiased one (K-1) plus `epsilon`; gradients flow
  through both moments. Where it is not above `epsilon` (the logits of an image
  are all equal) the result and its gradient are 0, which is our choice.

  Source: Sun et al., CVPR 2024; `normalize` of logit-standardization-KD
  f6e5aa5.
  """
  logits = logits.astype(jnp.float32)
  centred = logits - logits.mean(axis=-1, keepdims=True)
  square = jnp.square(centred).sum(axis=-1, keepdims=True)
  variance = square / (logits.shape[-1] - 1)
  some = variance > epsilon**2
  deviation = jnp.sqrt(jnp.where(some, variance, 1.0))
  return jnp.where(some, centred / (epsilon + deviation), 0.0)


def tckd(
  student: jax.Array,
  teacher: jax.Array,
  labels: jax.Array,
  temperature: float,
) -> jax.Array:
  """T^2 * KL of (probability of the label's class, of all others).

  Args:
    student: logits [N,K].
    teacher: logits [N,K], the target: no gradient flows to it.
    labels: [N] i32 or [N,K] f32 (the likeliest).
    temperature: T, by which both logits are divided.

  Returns:
    The mean over the batch: DKD's target-class term.

  Source: Zhao et al., CVPR 2022, equation 7; `dkd_loss` of mdistiller a08d46f.
  """
  own = _one_hot(labels, student.shape[-1])
  q, p = (
    jnp.stack(
      [jax.nn.logsumexp(x, axis=-1, where=k) for k in (own, ~own)], axis=-1
    )
    for x in _log_softened(student, teacher, temperature)
  )
  return temperature**2 * (jnp.exp(p) * (p - q)).sum(axis=-1).mean()


def nckd(
  student: jax.Array,
  teacher: jax.Array,
  labels: jax.Array,
  temperature: float,
) -> jax.Array:
  """T^2 * KL of the probabilities among all classes but the label's.

  Args and source: as `tckd`; DKD's term of the other classes.
  """
  others = ~_one_hot(labels, student.shape[-1])
  q, p = (
    x - jax.nn.logsumexp(x, axis=-1, where=others, keepdims=True)
    for x in _log_softened(student, teacher, temperature)
  )
  each = jnp.where(others, jnp.exp(p) * (p - q), 0.0)
  return temperature**2 * each.sum(axis=-1).mean()


def inter_class(
  student: jax.Array, teacher: jax.Array, temperature: float
) -> jax.Array:
  """T^2 * (1 - correlation of an image's probabilities), mean over images.

  Args:
    student: logits [N,K].
    teacher: logits [N,K], the target: no gradient flows to it.
    temperature: T, by which both logits are divided.

  Source: Huang et al., NeurIPS 2022, equation 9; `inter_class_relation` of
  DIST_KD 2418f18. The factor T^2 is its classification code's, recalled.
  """
  q, p = (jnp.exp(x) for x in _log_softened(student, teacher, temperature))
  return temperature**2 * (1 - _correlation(q, p).mean())


def intra_class(
  student: jax.Array, teacher: jax.Array, temperature: float
) -> jax.Array:
  """T^2 * (1 - correlation of a class's probabilities), mean over classes.

  A class's probabilities are those of all images of the batch.

  Args and source: as `inter_class`, equation 10, `intra_class_relation`.
  """
  q, p = (jnp.exp(x) for x in _log_softened(student, teacher, temperature))
  return temperature**2 * (1 - _correlation(q.T, p.T).mean())


def _one_hot(labels: jax.Array, count: int) -> jax.Array:
  """[N,K] bool: whether this is the image's class."""
  return jax.nn.one_hot(classes(labels), count, dtype=bool)


def _log_softened(
  student: jax.Array, teacher: jax.Array, temperature: float
) -> tuple[jax.Array, jax.Array]:
  """The logarithms of both probabilities [N,K], f32; the teacher's constant."""
  student = student.astype(jnp.float32)
  teacher = jax.lax.stop_gradient(teacher.astype(jnp.float32))
  return (
    jax.nn.log_softmax(student / temperature),
    jax.nn.log_softmax(teacher / temperature),
  )


def _correlation(
  a: jax.Array, b: jax.Array, epsilon: float = 1e-8
) -> jax.Array:
  """Pearson's correlation of the rows of a [M,n] and b [M,n]: [M].

  `epsilon` is added to the product of the lengths, as in the released code.
  Where a row is constant, the result and its gradient are 0, which is ours.
  """
  a, b = (x - x.mean(axis=-1, keepdims=True) for x in (a, b))
  squares = [jnp.square(x).sum(axis=-1) for x in (a, b)]
  vary = (squares[0] > 1e-24) & (squares[1] > 1e-24)
  length_a, length_b = (jnp.sqrt(jnp.where(vary, x, 1.0)) for x in squares)
  dot = jnp.where(vary, (a * b).sum(axis=-1), 0.0)
  return dot / (length_a * length_b + epsilon)
