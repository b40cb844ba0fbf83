"""Losses of methods that train in phases: AB, FSP, FT; float32, scalar."""

import jax
import jax.numpy as jnp

from kd_jax.losses import attention, basic


def activation_boundary(
  student: jax.Array, teacher: jax.Array, margin: float
) -> jax.Array:
  """Squared hinge on the side of 0 where the teacher's neuron is.

  Args:
    student: [N,H,W,C], before its ReLU.
    teacher: [N,H,W,C], before its ReLU; only its sign counts.
    margin: how far beyond 0 the student shall be.

  Returns:
    The sum over space and channels, mean over the batch.

  Source: Heo et al., AAAI 2019, equation 6; `ABLoss` of RepDistiller b84f547
  without its factor 3/1000, which is a weight here.
  """
  student = student.astype(jnp.float32)
  above = jnp.maximum(student + margin, 0.0)
  below = jnp.maximum(margin - student, 0.0)
  hinge = jnp.where(teacher > 0, below, above)
  return jnp.square(hinge).sum() / student.shape[0]


def flow(first: jax.Array, second: jax.Array) -> jax.Array:
  """The FSP matrix of two layers: channel products, mean over positions.

  Args:
    first: [N,H,W,C]; the larger of both maps is averaged to the smaller.
    second: [N,h,w,c], the later layer.

  Returns:
    [N,c,C] f32.

  Source: Yim et al., CVPR 2017, equation 1; `FSP` of RepDistiller b84f547.
  """
  first, second = (x.astype(jnp.float32) for x in basic.aligned(first, second))
  positions = first.shape[1] * first.shape[2]
  return jnp.einsum('nhwj,nhwk->njk', second, first) / positions


def factor_transfer(student: jax.Array, teacher: jax.Array) -> jax.Array:
  """Mean absolute difference of attention maps, an image's each at length 1.

  Args:
    student: [N,H,W,C], its factors.
    teacher: [N,h,w,c]; the larger of both is averaged to the smaller.

  Source: Kim et al., NeurIPS 2018, equation 3; `FactorTransfer` of RepDistiller
  b84f547, which compares attention maps of the factors.
  """
  s, t = (
    basic.unit(basic.flat(attention.attention_map(x)))
    for x in basic.aligned(student, teacher)
  )
  return jnp.abs(s - t).mean()
