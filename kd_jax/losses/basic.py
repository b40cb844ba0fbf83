"""Building blocks that the other losses share."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def mse(a: jax.Array, b: jax.Array) -> jax.Array:
  """Returns the mean squared difference over all elements of the batch.

  Args:
    a: An array, [N,...] f32.
    b: Another array of that shape, [N,...] f32.

  Returns:
    The mean over every element, the batch axis included, [] f32.
  """
  return jnp.square(a.astype(jnp.float32) - b.astype(jnp.float32)).mean()


def softmax_weighted_sum(values: Sequence[jax.Array]) -> jax.Array:
  """Returns the sum of scalars weighted by their softmax.

  Larger values weigh more; no gradient flows through the weights.

  Args:
    values: The scalars, each [] f32.

  Returns:
    The weighted sum, [] f32.

  Source: FPD's working code (`FPD_Loss`).
  """
  stacked = jnp.stack(list(values))
  return (jax.lax.stop_gradient(jax.nn.softmax(stacked)) * stacked).sum()


def avg_pool_to(x: jax.Array, height: int, width: int) -> jax.Array:
  """Returns a map resized by adaptive average pooling.

  Bin i covers rows floor(i*H/height) to ceil((i+1)*H/height), exclusive;
  columns are binned in the same way.

  Args:
    x: The map, [N,H,W,C] f32.
    height: The rows of the result.
    width: The columns of the result.

  Returns:
    The pooled map, [N,height,width,C] f32.
  """
  x = x.astype(jnp.float32)
  for axis, new_size in ((1, height), (2, width)):
    old_size = x.shape[axis]
    if old_size == new_size:
      continue
    weights = np.zeros((new_size, old_size), np.float32)
    for i in range(new_size):
      bin_ = slice(i * old_size // new_size, -(-(i + 1) * old_size // new_size))
      weights[i, bin_] = 1 / (bin_.stop - bin_.start)
    x = jnp.moveaxis(jnp.tensordot(weights, x, (1, axis)), 0, axis)
  return x


def aligned(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns two maps at a common size, each pooled to the smaller one.

  Height and width are treated separately: each becomes the smaller of the two.

  Args:
    a: A map, [N,h,w,c] f32.
    b: Another map, [N,H,W,C] f32.

  Returns:
    Both maps, [N,min(h,H),min(w,W),c] f32 and [N,min(h,H),min(w,W),C] f32.

  Source: the released code of RepDistiller, mdistiller and SimKD, which pools
  a pair of maps of different sizes so (adaptive average pooling).
  """
  height, width = (min(a.shape[i], b.shape[i]) for i in (1, 2))
  return avg_pool_to(a, height, width), avg_pool_to(b, height, width)


def unit(x: jax.Array, axis: int | tuple[int, ...] = -1) -> jax.Array:
  """Returns `x` scaled to length 1 along `axis`.

  A vector shorter than 1e-12 becomes 0, and its gradient is 0. torch's
  `normalize` divides such a vector by 1e-12, so that its gradient explodes.

  Args:
    x: [...] f32.
    axis: The axis or axes over which the length is taken.

  Returns:
    The normalised array in the shape of `x`, f32.
  """
  x = x.astype(jnp.float32)
  squared = jnp.square(x).sum(axis=axis, keepdims=True)
  safe = squared > 1e-24
  return jnp.where(safe, x * jax.lax.rsqrt(jnp.where(safe, squared, 1.0)), 0.0)


def flat(x: jax.Array) -> jax.Array:
  """Flattens every axis but the first.

  Args:
    x: [N,...] f32.

  Returns:
    [N,n] f32.
  """
  return x.reshape(x.shape[0], -1).astype(jnp.float32)


def smooth_l1(a: jax.Array, b: jax.Array) -> jax.Array:
  """Returns Huber's loss with delta 1, the mean over all elements.

  Args:
    a: An array, [N,...] f32.
    b: Another array of that shape, [N,...] f32.

  Returns:
    The mean over every element, [] f32.
  """
  error = jnp.abs(a.astype(jnp.float32) - b.astype(jnp.float32))
  return jnp.where(error < 1, jnp.square(error) / 2, error - 0.5).mean()


def cosine_distance(a: jax.Array, b: jax.Array) -> jax.Array:
  """Returns 1 minus the cosine of two vectors, the mean over the batch.

  Args:
    a: The vectors, [N,C] f32.
    b: The other vectors, [N,C] f32.

  Returns:
    The mean over images, [] f32.
  """
  return 1 - (unit(a) * unit(b)).sum(axis=-1).mean()
