"""Losses of networks that learn together (FFSD): float32, scalar."""

import jax
import jax.numpy as jnp

from kd_jax import errors
from kd_jax.losses import attention, basic


def unit_distance(a: jax.Array, b: jax.Array) -> jax.Array:
  """MSE of a and b [N,...], each image's part at length 1.

  Source: `attention_loss` of FFSD d5cfda9.
  """
  return basic.mse(basic.unit(basic.flat(a)), basic.unit(basic.flat(b)))


def diversity(x: jax.Array, previous: jax.Array) -> jax.Array:
  """How far x's attention is from the shifted one of the student before.

  Args:
    x: the map [N,H,W,C] that learns.
    previous: the map [N,H,W,C] of the student before it; it is the target.

  Source: Li et al., TNNLS 2022; `diversity_loss` of FFSD d5cfda9, which we
  follow: the attraction is towards a shifted attention map.
  """
  target, _ = _shifted(jax.lax.stop_gradient(previous))
  return basic.mse(basic.unit(basic.flat(attention.attention_map(x))), target)


def shifted_map(x: jax.Array) -> jax.Array:
  """The map [N,H,W,C] whose attention is moved by the diversity's shift.

  Every channel of a position gets the same offset.

  Source: `diversity_target` of FFSD d5cfda9.
  """
  target, offset = _shifted(x)
  n, h, w, c = x.shape
  del target
  return x + offset.reshape(n, h, w, 1) / c


def _shifted(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The shifted attention [N,H*W], and its offset times the length."""
  q = basic.flat(attention.attention_map(x))
  positions = q.shape[-1]
  if positions < 3:
    raise errors.UsageError(
      f'a map of {positions} positions has no third of least attention; take '
      'an earlier tap'
    )
  length = jnp.sqrt(jnp.square(q).sum(axis=-1, keepdims=True))
  unit = basic.unit(q)
  threshold = jnp.sort(unit, axis=-1)[:, positions // 3 - 1][:, None]
  half = length / 2
  # The code mixes the unnormalised length with normalised attention; kept.
  shifted = (half - unit) * jnp.sign(unit - threshold) + half
  return shifted, (shifted - unit) * length
