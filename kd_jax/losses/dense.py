"""Losses over the positions of maps: float32 scalars."""

import jax
import jax.numpy as jnp

from kd_jax.losses import logits as logits_lib

# The label of a position that has no class, as in Pascal VOC.
VOID = 255


def position_cross_entropies(
  logits: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns the cross-entropy of each position, and which positions count.

  Args:
    logits: The logits, [N,H,W,K] f32.
    labels: Class indices, [N,H,W] i32. A position whose label is not one of the
      K classes, such as `VOID`, does not count.

  Returns:
    The cross-entropies, [N,H,W] f32, 0 with the gradient 0 where a position
    does not count, and whether it does, [N,H,W] bool.
  """
  counts = (labels >= 0) & (labels < logits.shape[-1])
  log_q = jax.nn.log_softmax(logits.astype(jnp.float32))
  # A label out of range would read a NaN, at which `jax_debug_nans` stops.
  safe = jnp.where(counts, labels, 0)
  values = jnp.take_along_axis(log_q, safe[..., None], axis=-1)[..., 0]
  return jnp.where(counts, -values, 0.0), counts


def masked_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Returns the mean cross-entropy over the labelled positions of a batch.

  Args:
    logits: The logits, [N,H,W,K] f32.
    labels: Class indices, [N,H,W] i32. A position whose label is not one of the
      K classes, such as `VOID`, does not count.

  Returns:
    The mean over the positions that count, of all images together, [] f32; 0
    with the gradient 0 where there are none.

  Source: `SegmentationLosses` of overhaul-distillation 76344a8, which divides
  by the batch size too: a weight of 1 / batch does so. Without a labelled
  position it gives NaN; 0 is our choice.
  """
  values, counts = position_cross_entropies(logits, labels)
  return values.sum() / jnp.maximum(counts.sum(), 1)


def kl_of_positions(
  student: jax.Array, teacher: jax.Array, temperature: float
) -> jax.Array:
  """Returns `kl` of softened scores, the mean over all positions of a batch.

  Args:
    student: The student's scores, [N,h,w,K] f32.
    teacher: The teacher's scores, the target, [N,h,w,K] f32; no gradient flows
      to them.
    temperature: The temperature T, by which both scores are divided.

  Returns:
    T^2 * KL(teacher || student), the mean over N, h and w, [] f32.

  Source: our choice of Hinton et al., 2015, for maps.
  """
  classes = student.shape[-1]
  return logits_lib.kl(
    student.reshape(-1, classes), teacher.reshape(-1, classes), temperature
  )
