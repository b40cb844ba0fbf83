"""Losses of networks that learn together (FFSD): float32 scalars."""

import jax
import jax.numpy as jnp

from kd_jax import errors
from kd_jax.losses import attention, basic


def unit_distance(a: jax.Array, b: jax.Array) -> jax.Array:
  """Returns the MSE of two arrays, each normalised per image.

  Args:
    a: An array, [N,...] f32.
    b: Another array with as many elements per image, [N,...] f32.

  Returns:
    The mean over every element, where each image has length 1, [] f32.

  Source: `attention_loss` of FFSD d5cfda9.
  """
  return basic.mse(basic.unit(basic.flat(a)), basic.unit(basic.flat(b)))


def diversity(x: jax.Array, previous: jax.Array) -> jax.Array:
  """Returns FFSD's diversity loss of a student.

  The loss attracts the student's attention map to the shifted attention map of
  the previous student.

  Args:
    x: The map that learns, [N,H,W,C] f32.
    previous: The previous student's map, the target, [N,H,W,C] f32; no gradient
      flows to it.

  Returns:
    The MSE of the normalised attention map and the shifted one, [] f32.

  Source: Li et al., TNNLS 2022; `diversity_loss` of FFSD d5cfda9, which we
  follow in attracting to a shifted attention map.
  """
  target, _ = _shifted(jax.lax.stop_gradient(previous))
  return basic.mse(attention.unit_attention(x), target)


def shifted_map(x: jax.Array) -> jax.Array:
  """Returns a map moved by the shift of the diversity loss.

  Every channel of a position gets the same offset.

  Args:
    x: The map, [N,H,W,C] f32.

  Returns:
    The shifted map, [N,H,W,C] f32.

  Source: `diversity_target` of FFSD d5cfda9.
  """
  target, offset = _shifted(x)
  n, h, w, c = x.shape
  del target
  return x + offset.reshape(n, h, w, 1) / c


def _shifted(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns the shifted attention of a map and the offset that shifts it.

  Args:
    x: The map, [N,H,W,C] f32.

  Returns:
    The shifted attention, [N,H*W] f32, and the difference from the normalised
    attention times the attention's length, [N,H*W] f32.

  Raises:
    UsageError: The map has fewer than three positions.
  """
  energy = basic.flat(attention.attention_map(x))
  positions = energy.shape[-1]
  if positions < 3:
    raise errors.UsageError(
      f'a map of {positions} positions has no third of least attention; take '
      'an earlier tap'
    )
  length = basic.length(energy)
  unit = basic.unit(energy)
  threshold = jnp.sort(unit, axis=-1)[:, positions // 3 - 1][:, None]
  half = length / 2
  # The released code mixes the unnormalised length with normalised attention;
  # we keep that.
  shifted = (half - unit) * jnp.sign(unit - threshold) + half
  return shifted, (shifted - unit) * length
