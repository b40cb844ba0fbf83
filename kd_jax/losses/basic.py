"""What the other losses are made of."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def mse(a: jax.Array, b: jax.Array) -> jax.Array:
  """Mean squared difference over every element, the batch included."""
  return jnp.square(a.astype(jnp.float32) - b.astype(jnp.float32)).mean()


def softmax_weighted_sum(values: Sequence[jax.Array]) -> jax.Array:
  """Scalars weighted by their own softmax, which counts as a constant.

  Source: FPD's working code (`FPD_Loss`): larger values weigh more, and no
  gradient flows through the weights.
  """
  stacked = jnp.stack(list(values))
  return (jax.lax.stop_gradient(jax.nn.softmax(stacked)) * stacked).sum()


def avg_pool_to(x: jax.Array, height: int, width: int) -> jax.Array:
  """Averages x [N,H,W,C] to [N,height,width,C] f32: adaptive pooling.

  Bin i covers rows floor(i*H/height) to ceil((i+1)*H/height), exclusive.
  """
  x = x.astype(jnp.float32)
  for axis, size in ((1, height), (2, width)):
    have = x.shape[axis]
    if have == size:
      continue
    weights = np.zeros((size, have), np.float32)
    for i in range(size):
      bin_ = slice(i * have // size, -(-(i + 1) * have // size))
      weights[i, bin_] = 1 / (bin_.stop - bin_.start)
    x = jnp.moveaxis(jnp.tensordot(weights, x, (1, axis)), 0, axis)
  return x


def aligned(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Two maps [N,h,w,c] at one size: the larger is averaged to the smaller.

  Source: what the released code of RepDistiller, mdistiller and SimKD does
  with a pair of maps of different sizes (adaptive average pooling).
  """
  height, width = (min(a.shape[i], b.shape[i]) for i in (1, 2))
  return avg_pool_to(a, height, width), avg_pool_to(b, height, width)


def unit(x: jax.Array, axis: int | tuple[int, ...] = -1) -> jax.Array:
  """x / length along `axis`; 0, with gradient 0, where shorter than 1e-12.

  torch's `normalize` divides by 1e-12 there, so that its gradient explodes.
  """
  x = x.astype(jnp.float32)
  square = jnp.square(x).sum(axis=axis, keepdims=True)
  long = square > 1e-24
  return jnp.where(long, x * jax.lax.rsqrt(jnp.where(long, square, 1.0)), 0.0)


def flat(x: jax.Array) -> jax.Array:
  """[N,...] as [N,n] f32."""
  return x.reshape(x.shape[0], -1).astype(jnp.float32)


def smooth_l1(a: jax.Array, b: jax.Array) -> jax.Array:
  """Huber's loss with delta 1, mean over every element."""
  size = jnp.abs(a.astype(jnp.float32) - b.astype(jnp.float32))
  return jnp.where(size < 1, jnp.square(size) / 2, size - 0.5).mean()


def cosine_distance(a: jax.Array, b: jax.Array) -> jax.Array:
  """1 minus the cosine of vectors [N,C], mean over the batch."""
  return 1 - (unit(a) * unit(b)).sum(axis=-1).mean()
