"""Losses over feature maps: float32 scalars."""

from collections.abc import Sequence
import itertools

import jax
import jax.numpy as jnp

from kd_jax.losses import basic


def margin(scale: jax.Array, bias: jax.Array) -> jax.Array:
  """Returns OFD's margin for each channel that a BatchNorm normalises.

  The margin is the mean of the negative part of N(bias, scale^2).

  Args:
    scale: The BatchNorm's scale gamma, [C] f32; its sign does not matter.
    bias: The BatchNorm's bias beta, [C] f32.

  Returns:
    The margins, [C] f32: -3*|gamma| where at most a thousandth of the
    distribution is negative.

  Source: Heo et al., ICCV 2019, section 3.1; `get_margin_from_BN` of
  overhaul-distillation 76344a8. Where gamma is 0, our choice is min(beta, 0).
  """
  gamma, beta = jnp.abs(scale.astype(jnp.float32)), bias.astype(jnp.float32)
  dead = gamma == 0
  safe = jnp.where(dead, 1.0, gamma)
  ratio = beta / safe
  share_below_0 = jax.scipy.stats.norm.cdf(-ratio)
  reliable = share_below_0 > 0.001
  density = jnp.exp(-jnp.square(ratio) / 2) / jnp.sqrt(2 * jnp.pi)
  mean = beta - safe * density / jnp.where(reliable, share_below_0, 1.0)
  margins = jnp.where(reliable, mean, -3 * gamma)
  return jnp.where(dead, jnp.minimum(beta, 0.0), margins)


def partial_l2(
  student: jax.Array, teacher: jax.Array, margin: jax.Array
) -> jax.Array:
  """Returns OFD's partial L2 distance of two maps.

  An element counts 0 where the target is not positive and the student's value
  is not above it.

  Args:
    student: The student's map, [N,H,W,C] f32.
    teacher: The teacher's map before its ReLU, [N,H,W,C] f32.
    margin: The least value of each channel's target, [C] f32; lower values of
      the teacher are raised to it.

  Returns:
    The sum of squared differences over positions and channels, the mean over
    the batch, [] f32.

  Source: Heo et al., ICCV 2019, equation 4; `distillation_loss` of
  overhaul-distillation 76344a8 (which sums over the batch too).
  """
  student = student.astype(jnp.float32)
  target = jnp.maximum(teacher.astype(jnp.float32), margin[None, None, None, :])
  counts = (student > target) | (target > 0)
  squares = jnp.where(counts, jnp.square(student - target), 0.0)
  return squares.sum() / student.shape[0]


def inter_layer(shallow: jax.Array, deep: jax.Array) -> jax.Array:
  """Returns the MSE of a shallow map and a deep map of the same network.

  The larger map is average-pooled to the size of the smaller. Of the map with
  more channels, only as many leading channels count as the other map has.

  Args:
    shallow: The shallow map, which learns, [N,h,w,c] f32.
    deep: The deep map, the target, [N,H,W,C] f32; no gradient flows to it.

  Returns:
    The mean over every element, [] f32.

  Source: Li, ECCV 2022; train_kd.py of Teacher-free-Distillation 3427f98.
  """
  height = min(shallow.shape[1], deep.shape[1])
  width = min(shallow.shape[2], deep.shape[2])
  channels = min(shallow.shape[3], deep.shape[3])
  target = jax.lax.stop_gradient(basic.avg_pool_to(deep, height, width))
  learner = basic.avg_pool_to(shallow, height, width)
  return basic.mse(learner[..., :channels], target[..., :channels])


def inter_layers(maps: Sequence[jax.Array]) -> jax.Array:
  """Returns the mean of `inter_layer` over all pairs of maps.

  Args:
    maps: The maps of a network, shallow first, each [N,H,W,C] f32.

  Returns:
    The mean over pairs, [] f32.
  """
  pairs = itertools.combinations(maps, 2)
  return jnp.stack(
    [inter_layer(shallow, deep) for shallow, deep in pairs]
  ).mean()


def intra_layer(x: jax.Array, *, detach_salient: bool = False) -> jax.Array:
  """Returns the MSE of a map's salient channels and its other channels.

  Channels are sorted by saliency; the first half is paired with the second, in
  that order. A channel's saliency is the mean of its map over batch and space,
  each map normalised to length 1; no gradient flows through the order.

  Args:
    x: The map, [N,h,w,C] f32, where C is even.
    detach_salient: Whether only the other half learns. The released code trains
      both halves.

  Returns:
    The mean over every element, [] f32.

  Source: Li, ECCV 2022; `intra_fd` in train_kd.py of Teacher-free-Distillation
  3427f98.
  """
  saliency = jax.lax.stop_gradient(basic.unit(x, (1, 2)).mean(axis=(0, 1, 2)))
  order = jnp.argsort(-saliency, stable=True)
  half = x.shape[-1] // 2
  salient, other = x[..., order[:half]], x[..., order[half:]]
  if detach_salient:
    salient = jax.lax.stop_gradient(salient)
  return basic.mse(salient, other)
