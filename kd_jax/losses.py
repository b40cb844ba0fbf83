"""Distances between arrays: float32, scalar, no parameters, no config."""

from collections.abc import Sequence
import itertools

import jax
import jax.numpy as jnp
import numpy as np


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


def mse(a: jax.Array, b: jax.Array) -> jax.Array:
  """Mean squared difference over every element, the batch included."""
  return jnp.square(a.astype(jnp.float32) - b.astype(jnp.float32)).mean()


def softmax_weighted_sum(values: Sequence[jax.Array]) -> jax.Array:
  """Scalars weighted by their own softmax, which counts as a constant.

  Source: FPD's working code (`FPD_Loss`): larger values weigh more, and no
  gradient flows through the weights.
  """
  stacked = jnp.stack(list(values))
  return (jax.lax.stop_gradient(jax.nn.softmax(stacked)) * stacked).sum()


def margin(scale: jax.Array, bias: jax.Array) -> jax.Array:
  """The mean of the negative part of N(bias, scale^2), for each channel.

  Args:
    scale: gamma [C] of a BatchNorm; its sign does not matter.
    bias: beta [C].

  Returns:
    [C] f32; -3*|gamma| where less than a thousandth is negative.

  Source: Heo et al., ICCV 2019, section 3.1; `get_margin_from_BN` of
  overhaul-distillation 76344a8. Where gamma is 0, our choice is min(beta, 0).
  """
  gamma, beta = jnp.abs(scale.astype(jnp.float32)), bias.astype(jnp.float32)
  dead = gamma == 0
  safe = jnp.where(dead, 1.0, gamma)
  ratio = beta / safe
  negative = jax.scipy.stats.norm.cdf(-ratio)  # the share below 0
  some = negative > 0.001
  density = jnp.exp(-jnp.square(ratio) / 2) / jnp.sqrt(2 * jnp.pi)
  mean = beta - safe * density / jnp.where(some, negative, 1.0)
  found = jnp.where(some, mean, -3 * gamma)
  return jnp.where(dead, jnp.minimum(beta, 0.0), found)


def partial_l2(
  student: jax.Array, teacher: jax.Array, margin: jax.Array
) -> jax.Array:
  """Squared differences, but where both are negative and the student lower.

  Args:
    student: [N,H,W,C].
    teacher: [N,H,W,C], before its ReLU.
    margin: [C]; teacher values below it are raised to it.

  Returns:
    The sum over space and channels, mean over the batch.

  Source: Heo et al., ICCV 2019, equation 4; `distillation_loss` of
  overhaul-distillation 76344a8 (which sums over the batch too).
  """
  target = jnp.maximum(teacher, margin[None, None, None, :])
  counts = (student > target) | (target > 0)
  squares = jnp.where(counts, jnp.square(student - target), 0.0)
  return squares.sum() / student.shape[0]


def avg_pool_to(x: jax.Array, height: int, width: int) -> jax.Array:
  """Averages x [N,H,W,C] to [N,height,width,C], as adaptive pooling does.

  Bin i covers rows floor(i*H/height) to ceil((i+1)*H/height), exclusive.
  """
  for axis, size in ((1, height), (2, width)):
    have = x.shape[axis]
    if have == size:
      continue
    weights = np.zeros((size, have), np.float32)
    for i in range(size):
      bin_ = slice(i * have // size, -(-(i + 1) * have // size))
      weights[i, bin_] = 1 / (bin_.stop - bin_.start)
    x = jnp.moveaxis(jnp.tensordot(weights, x, (1, axis)), 0, axis)
  return x


def inter_layer(shallow: jax.Array, deep: jax.Array) -> jax.Array:
  """MSE of a shallow map, pooled, and the deep map's leading channels.

  The larger map is pooled to the smaller, both are cropped to the channels of
  the narrower, in index order, and the deep one is the target.

  Args:
    shallow: [N,h,w,c].
    deep: [N,h',w',c'].

  Source: Li, ECCV 2022; train_kd.py of Teacher-free-Distillation 3427f98.
  """
  height = min(shallow.shape[1], deep.shape[1])
  width = min(shallow.shape[2], deep.shape[2])
  channels = min(shallow.shape[3], deep.shape[3])
  target = jax.lax.stop_gradient(avg_pool_to(deep, height, width))
  learner = avg_pool_to(shallow, height, width)
  return mse(learner[..., :channels], target[..., :channels])


def inter_layers(maps: Sequence[jax.Array]) -> jax.Array:
  """The mean of `inter_layer` over all pairs of maps, shallow first."""
  pairs = itertools.combinations(maps, 2)
  return jnp.stack([inter_layer(u, d) for u, d in pairs]).mean()


def intra_layer(x: jax.Array, *, detach_salient: bool = False) -> jax.Array:
  """MSE of a map's salient half of channels and its other half, in order.

  A channel's saliency is the mean of its map over batch and space, each map
  normalised to length 1; no gradient flows through the order.

  Args:
    x: [N,h,w,C], C even.
    detach_salient: only the other half learns; the released code moves both.

  Source: as `inter_layer`, `intra_fd`.
  """
  square = jnp.square(x).sum(axis=(1, 2), keepdims=True)
  length = jnp.sqrt(jnp.maximum(square, 1e-24))  # safe where a map is dead
  saliency = jax.lax.stop_gradient((x / length).mean(axis=(0, 1, 2)))
  order = jnp.argsort(-saliency, stable=True)
  half = x.shape[-1] // 2
  salient, other = x[..., order[:half]], x[..., order[half:]]
  if detach_salient:
    salient = jax.lax.stop_gradient(salient)
  return mse(salient, other)
