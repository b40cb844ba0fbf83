"""Losses of the methods that train in phases, AB, FSP and FT: f32 scalars."""

import jax
import jax.numpy as jnp

from kd_jax.losses import attention, basic


def activation_boundary(
  student: jax.Array, teacher: jax.Array, margin: float
) -> jax.Array:
  """Returns a squared hinge loss on the sign of the teacher's activations.

  Args:
    student: The student's map before its ReLU, [N,H,W,C] f32.
    teacher: The teacher's map before its ReLU, [N,H,W,C] f32; only its signs
      count.
    margin: The distance from 0, on the teacher's side, beyond which the
      student's activation costs nothing.

  Returns:
    The sum over positions and channels, the mean over the batch, [] f32.

  Source: Heo et al., AAAI 2019, equation 6; `ABLoss` of RepDistiller b84f547
  without its factor 3/1000, which belongs to the term's
  weight here.
  """
  student = student.astype(jnp.float32)
  above = jnp.maximum(student + margin, 0.0)
  below = jnp.maximum(margin - student, 0.0)
  hinge = jnp.where(teacher > 0, below, above)
  return jnp.square(hinge).sum() / student.shape[0]


def flow(first: jax.Array, second: jax.Array) -> jax.Array:
  """Returns the FSP matrices of two layers.

  A matrix holds the products of the two layers' channels. The larger of both
  maps is averaged to the size of the smaller.

  Args:
    first: The map of the earlier layer, [N,H,W,C] f32.
    second: The map of the later layer, [N,h,w,c] f32.

  Returns:
    The mean of the products over positions, [N,c,C] f32.

  Source: Yim et al., CVPR 2017, equation 1; `FSP` of RepDistiller b84f547.
  """
  first, second = (x.astype(jnp.float32) for x in basic.aligned(first, second))
  positions = first.shape[1] * first.shape[2]
  return jnp.einsum('nhwj,nhwk->njk', second, first) / positions


def factor_transfer(student: jax.Array, teacher: jax.Array) -> jax.Array:
  """Returns the mean absolute difference of two factors' attention maps.

  The larger of both maps is averaged to the size of the smaller. Each image's
  attention map is normalised to length 1.

  Args:
    student: The student's factors, [N,H,W,C] f32.
    teacher: The teacher's factors, [N,h,w,c] f32.

  Returns:
    The mean over images and positions, [] f32.

  Source: Kim et al., NeurIPS 2018, equation 3; `FactorTransfer` of RepDistiller
  b84f547, which compares attention maps of the factors.
  """
  s, t = map(attention.unit_attention, basic.aligned(student, teacher))
  return jnp.abs(s - t).mean()
