"""Losses that compare maps [N,H,W,C] at several scales: float32, scalar."""

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
  """The weighted mean of the MSE of two maps and of both averaged to squares.

  The maps as they are weigh 1, each square that is smaller than they are
  weighs `decay` times the one before it.

  Args:
    student: [N,H,W,C].
    teacher: [N,H,W,C].
    sides: of the squares, in order; those not below min(H, W) are left out.
    decay: see above.

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
