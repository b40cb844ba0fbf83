"""Building blocks that the other losses share."""

from collections.abc import Sequence
import functools

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


def power_of_2(
  x: jax.Array, axis: int | tuple[int, ...] | None = -1
) -> jax.Array:
  """Returns the power of 2 that brings the largest entry of `x` to 1..2.

  Squares of entries times it do not overflow, and the product is exact. It
  counts as a constant: no gradient flows through it.

  Args:
    x: [...] f32.
    axis: The axis or axes over which the largest entry is taken; None is all.

  Returns:
    The power of 2, at least 2^-63 and at most 2^63, so that its own square is
    finite too (XLA may square the factors of a product one by one), f32, in the
    shape of `x` with 1 in place of `axis`.
  """
  magnitudes = jnp.abs(jax.lax.stop_gradient(x))
  largest = magnitudes.max(axis=axis, keepdims=True)
  # A float32 2^e has the bits e+127, followed by 23 zeros.
  exponent = jax.lax.bitcast_convert_type(largest, jnp.int32) >> 23
  opposite = jnp.clip(254 - exponent, 127 - 63, 127 + 63) << 23
  return jax.lax.bitcast_convert_type(opposite, jnp.float32)


def lessened(
  x: jax.Array, axis: int | tuple[int, ...] | None = None
) -> jax.Array:
  """Returns `x` times a power of 2 that leaves no entry of 2 or more.

  Where all entries are below 2, they stay as they are. It stands before
  squares whose scale does not matter unless it is tiny.

  Args:
    x: [...] f32.
    axis: The axis or axes that share a power of 2; None is all.

  Returns:
    The product in the shape of `x`, f32.
  """
  x = x.astype(jnp.float32)
  return x * jnp.minimum(power_of_2(x, axis), 1.0)


def unit(
  x: jax.Array, axis: int | tuple[int, ...] = -1, least: float = 1e-12
) -> jax.Array:
  """Returns `x` scaled to length 1 along `axis`, as torch's `normalize` does.

  A vector shorter than `least` is divided by `least` instead, and so is its
  gradient. A vector that is 0 has the gradient 0, which is our choice.

  Args:
    x: [...] f32.
    axis: The axis or axes over which the length is taken.
    least: The least length by which a vector is divided.

  Returns:
    The normalised array in the shape of `x`, f32.
  """
  return _unit(x.astype(jnp.float32), axis, least)


def _unit_and_factor(x, axis, least):
  """Returns the unit vectors, 1 over their lengths, and which are not short."""
  scale = power_of_2(x, axis)
  scaled = x * scale
  squared = jnp.square(scaled).sum(axis=axis, keepdims=True)
  least_squared = jnp.square(least * scale)
  inverse = jax.lax.rsqrt(jnp.maximum(squared, least_squared))
  factor = jnp.where(squared == 0, 0.0, inverse * scale)
  return scaled * inverse, factor, squared > least_squared


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _unit(x, axis, least):
  return _unit_and_factor(x, axis, least)[0]


@_unit.defjvp
def _unit_derivative(axis, least, given, moved):
  # Written out, it is not the product of a cube that overflows and a square
  # that vanishes.
  unit, factor, is_long = _unit_and_factor(given[0], axis, least)
  along = (moved[0] * unit).sum(axis=axis, keepdims=True)
  return unit, (moved[0] - unit * jnp.where(is_long, along, 0.0)) * factor


def length(x: jax.Array, axis: int | tuple[int, ...] = -1) -> jax.Array:
  """Returns the length of `x` along `axis`; where it is 0, so is its gradient.

  Args:
    x: [...] f32.
    axis: The axis or axes over which the length is taken.

  Returns:
    The length, f32, in the shape of `x` with 1 in place of `axis`.
  """
  x = x.astype(jnp.float32)
  scale = power_of_2(x, axis)
  squared = jnp.square(x * scale).sum(axis=axis, keepdims=True)
  is_zero = squared == 0
  return jnp.where(
    is_zero, 0.0, jnp.sqrt(jnp.where(is_zero, 1.0, squared)) / scale
  )


def softened(x: jax.Array, epsilon: float) -> jax.Array:
  """Returns `x` divided by its length along the last axis plus a constant.

  A vector that is 0 has the gradient 0, which is our choice.

  Args:
    x: [...,C] f32.
    epsilon: The constant added to the length.

  Returns:
    The quotient in the shape of `x`, f32.
  """
  x = x.astype(jnp.float32)
  scale = power_of_2(x)
  x = x * scale
  squared = jnp.square(x).sum(axis=-1, keepdims=True)
  is_zero = squared == 0
  lengths = jnp.sqrt(jnp.where(is_zero, 1.0, squared))
  return jnp.where(is_zero, 0.0, x / (lengths + epsilon * scale))


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
