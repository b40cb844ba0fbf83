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
  student = student.astype(jnp.float32) / temperature
  teacher = jax.lax.stop_gradient(teacher.astype(jnp.float32)) / temperature
  log_q = jax.nn.log_softmax(student)
  log_p = jax.nn.log_softmax(teacher)
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
