"""Losses that compare feature maps at several scales: float32 scalars."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from kd_jax.losses import basic


def hierarchical_context(
  student: jax.Array,
  teacher: jax.Array,
  sides: Sequence[int] = (4, 2, 1),
  decay: float = 0.5,
) -> jax.Array:
  """Returns the weighted mean of two maps' MSE at several scales.

  The full-size maps weigh 1; each pooled scale weighs `decay` times the scale
  before it.

  Args:
    student: The student's map, [N,H,W,C] f32.
    teacher: The teacher's map, [N,H,W,C] f32.
    sides: The sides of the squares to which both maps are averaged, in order.
      Sides that are not below min(H, W) are skipped.
    decay: The factor between the weights of successive scales.

  Returns:
    The weighted mean, [] f32.

  Source: Chen et al., CVPR 2021 ("HCL"); `hcl_loss` of mdistiller a08d46f.
  """
  student, teacher = (x.astype(jnp.float32) for x in (student, teacher))
  total, weight, weights = basic.mse(student, teacher), 1.0, 1.0
  for side in sides:
    if side >= min(student.shape[1:3]):
      continue
    pooled = (basic.avg_pool_to(x, side, side) for x in (student, teacher))
    weight *= decay
    weights += weight
    total += weight * basic.mse(*pooled)
  return total / weights
