"""Losses over the positions where a feature map is active: f32 scalars."""

import jax
import jax.numpy as jnp

from kd_jax.losses import basic


def attention_map(x: jax.Array) -> jax.Array:
  """Returns the attention map of a feature map.

  Activations beyond 1.8e19 overflow, as in the originals: to scale them first
  would read every map once more.

  Args:
    x: The feature map, [N,H,W,C] f32.

  Returns:
    The mean over channels of the squared activations, [N,H,W] f32.
  """
  return jnp.square(x.astype(jnp.float32)).mean(axis=-1)


def unit_attention(x: jax.Array) -> jax.Array:
  """Returns the attention map of a feature map at length 1 for each image.

  Args:
    x: The feature map, [N,H,W,C] f32.

  Returns:
    The flattened attention map, [N,H*W] f32; see `basic.unit`.
  """
  return basic.unit(basic.flat(attention_map(x)))


def attention_transfer(student: jax.Array, teacher: jax.Array) -> jax.Array:
  """Returns the MSE of two attention maps, each normalised per image.

  Args:
    student: The student's map, [N,H,W,c] f32.
    teacher: The teacher's map, [N,H,W,C] f32; the number of channels may
      differ from the student's.

  Returns:
    The mean over images and positions of the squared difference of the two
    attention maps, each image's at length 1, [] f32.

  Source: Zagoruyko & Komodakis, ICLR 2017, with p=2; `Attention` of
  RepDistiller b84f547, which takes the mean over positions too.
  """
  return basic.mse(unit_attention(student), unit_attention(teacher))


def neuron_selectivity(student: jax.Array, teacher: jax.Array) -> jax.Array:
  """Returns the squared maximum mean discrepancy (MMD) of two maps' channels.

  The kernel is (u.v)^2. A sample is the spatial map of a channel of an image,
  at length 1.

  Args:
    student: The student's map, [N,H,W,c] f32.
    teacher: The teacher's map, [N,H,W,C] f32; the number of channels may
      differ from the student's.

  Returns:
    The mean over images and pairs of channels, [] f32. It includes the term
    k(t,t), which is constant with respect to the student.

  Source: Huang & Wang, 2017 (the polynomial kernel with d=2, c=0); `NSTLoss`
  of RepDistiller b84f547.
  """
  s, t = (basic.unit(x, (1, 2)) for x in (student, teacher))

  def kernel(a, b):
    # The three kernel terms nearly cancel where the maps are alike, so they
    # need at least the precision of float32.
    products = jnp.einsum('nhwc,nhwd->ncd', a, b, precision='highest')
    return jnp.square(products).mean()

  return kernel(t, t) + kernel(s, s) - 2 * kernel(s, t)
