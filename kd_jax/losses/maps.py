"""Losses over feature maps [N,H,W,C]: float32, scalar."""

from collections.abc import Sequence
import itertools

import jax
import jax.numpy as jnp

from kd_jax.losses import basic


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
  student = student.astype(jnp.float32)
  target = jnp.maximum(teacher.astype(jnp.float32), margin[None, None, None, :])
  counts = (student > target) | (target > 0)
  squares = jnp.where(counts, jnp.square(student - target), 0.0)
  return squares.sum() / student.shape[0]


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
  target = jax.lax.stop_gradient(basic.avg_pool_to(deep, height, width))
  learner = basic.avg_pool_to(shallow, height, width)
  return basic.mse(learner[..., :channels], target[..., :channels])


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
  saliency = jax.lax.stop_gradient(basic.unit(x, (1, 2)).mean(axis=(0, 1, 2)))
  order = jnp.argsort(-saliency, stable=True)
  half = x.shape[-1] // 2
  salient, other = x[..., order[:half]], x[..., order[half:]]
  if detach_salient:
    salient = jax.lax.stop_gradient(salient)
  return basic.mse(salient, other)
