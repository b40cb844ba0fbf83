"""The loss of detectors that correct priors, and its distillation.

A prior is positive where its class is above 0; the rest are background, of
which the hardest count too.

Source: Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016;
`MultiBoxLoss` of ssd.pytorch 5b0b77f.
"""

import jax
import jax.numpy as jnp

from kd_jax.losses import logits as logits_lib

# Background priors that count beside each positive one.
NEGATIVES = 3


def multibox(
  offsets: jax.Array, logits: jax.Array, classes: jax.Array, targets: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns the losses of the boxes and of the classes.

  Both are sums over the batch, divided by its positive priors, at least 1 (the
  original's is NaN in a batch without objects).

  Args:
    offsets: The predicted offsets, [N,P,4] f32.
    logits: The logits of the background and of K classes, [N,P,C] f32.
    classes: What the priors are to predict, 0 for the background, [N,P] i32.
    targets: The offsets that they are to predict, [N,P,4] f32; those of the
      background do not count.

  Returns:
    Huber's loss with delta 1 over the offsets of positive priors, [] f32, and
    the cross-entropy over positive and mined priors, [] f32.
  """
  logits = logits.astype(jnp.float32)
  positive = classes > 0
  divisor = jnp.maximum(positive.sum(), 1).astype(jnp.float32)
  error = offsets.astype(jnp.float32) - targets.astype(jnp.float32)
  # What the background predicts reaches neither the value nor the gradient.
  error = jnp.abs(jnp.where(positive[..., None], error, 0.0))
  box = jnp.where(error < 1, jnp.square(error) / 2, error - 0.5).sum()
  log_q = jax.nn.log_softmax(logits)
  entropy = -jnp.take_along_axis(log_q, classes[..., None], axis=-1)[..., 0]
  entropy = jnp.where(multibox_selected(logits, classes), entropy, 0.0).sum()
  return box / divisor, entropy / divisor


def multibox_selected(logits: jax.Array, classes: jax.Array) -> jax.Array:
  """Returns which priors' classes count: the positive and the mined ones.

  In each image the background priors with the largest cross-entropies are
  mined, three for each positive one, and at most all priors but one. No
  gradient flows through the choice.

  Args:
    logits: The logits of the background and of K classes, [N,P,C] f32.
    classes: What the priors are to predict, 0 for the background, [N,P] i32.

  Returns:
    [N,P] bool; of an image without objects none is True.
  """
  positive = classes > 0
  logits = jax.lax.stop_gradient(logits.astype(jnp.float32))
  hardness = -jax.nn.log_softmax(logits)[..., 0]
  hardness = jnp.where(positive, -jnp.inf, hardness)
  order = jnp.argsort(-hardness, axis=-1, stable=True)
  ranks = jnp.argsort(order, axis=-1, stable=True)
  count = NEGATIVES * positive.sum(axis=-1, keepdims=True)
  mined = ranks < jnp.minimum(count, positive.shape[-1] - 1)
  return positive | mined


def multibox_kl(
  student: jax.Array, teacher: jax.Array, classes: jax.Array, temperature: float
) -> jax.Array:
  """Returns T^2 * KL(teacher || student) of the priors that `multibox` selects.

  The boxes are not distilled. The sum over the batch is divided by its positive
  priors, at least 1, as `multibox` is.

  Args:
    student: The student's logits, by which priors are mined, [N,P,C] f32.
    teacher: The teacher's logits, the target, [N,P,C] f32; no gradient flows to
      them.
    classes: What the priors are to predict, 0 for the background, [N,P] i32.
    temperature: The temperature T, by which both logits are divided.

  Returns:
    [] f32.

  Source: our choice; OFD's detectors were not distilled by their logits.
  """
  count = student.shape[-1]
  divergence = logits_lib.kl_per_image(
    student.reshape(-1, count), teacher.reshape(-1, count), temperature
  )
  counted = multibox_selected(student, classes).reshape(-1)
  divisor = jnp.maximum((classes > 0).sum(), 1).astype(jnp.float32)
  return jnp.where(counted, divergence, 0.0).sum() / divisor
