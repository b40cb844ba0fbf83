"""Losses over where a map [N,H,W,C] is active: float32, scalar."""

import jax
import jax.numpy as jnp

from kd_jax.losses import basic


def attention_map(x: jax.Array) -> jax.Array:
  """The mean over channels of the squares of x [N,H,W,C]: [N,H,W] f32."""
  return jnp.square(x.astype(jnp.float32)).mean(axis=-1)


def attention_transfer(student: jax.Array, teacher: jax.Array) -> jax.Array:
  """MSE of two attention maps, each of an image's at length 1.

  Args:
    student: [N,H,W,c].
    teacher: [N,H,W,C]; channels may differ.

  Source: Zagoruyko & Komodakis, ICLR 2017, with p=2; `Attention` of
  RepDistiller b84f547, which takes the mean over positions too.
  """
  s, t = (basic.unit(basic.flat(attention_map(x))) for x in (student, teacher))
  return basic.mse(s, t)


def neuron_selectivity(student: jax.Array, teacher: jax.Array) -> jax.Array:
  """Squared maximum mean discrepancy of channels, by the kernel (u.v)^2.

  A channel of an image is a sample: its map, at length 1.

  Args:
    student: [N,H,W,c].
    teacher: [N,H,W,C]; channels may differ.

  Returns:
    Mean over images and pairs of channels; k(t,t), a constant to the student,
    is counted.

  Source: Huang & Wang, 2017 (the polynomial kernel with d=2, c=0); `NSTLoss`
  of RepDistiller b84f547.
  """
  s, t = (basic.unit(x, (1, 2)) for x in (student, teacher))

  def kernel(a, b):
    # Three terms nearly cancel where the maps are alike: no less than float32.
    products = jnp.einsum('nhwc,nhwd->ncd', a, b, precision='highest')
    return jnp.square(products).mean()

  return kernel(t, t) + kernel(s, s) - 2 * kernel(s, t)
