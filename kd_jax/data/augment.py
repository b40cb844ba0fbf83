"""Augmentation and normalisation of uint8 images, inside jit."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp


class CropFlip(NamedTuple):
  """A random crop of the padded image, and a random mirror image.

  Attributes:
    padding: pixels on every side before the crop; 0 crops nothing.
    mode: what the padding holds: 'zero' (black, before normalisation) or
      'reflect' (mirrored without repeating the edge).
    flip: mirror half of the images left to right.
  """

  padding: int = 4
  mode: Literal['zero', 'reflect'] = 'zero'
  flip: bool = True


def crop_flip(
  images: jax.Array, index: jax.Array, key: jax.Array, how: CropFlip
) -> tuple[jax.Array, jax.Array]:
  """Takes images[index], cropped and flipped, in one gather.

  Args:
    images: [M,H,W,3] u8.
    index: [N] i32.
    key: decides crops and flips; each image's own.
    how: what to do.

  Returns:
    [N,H,W,3] u8, and which of them are mirrored, [N] bool.
  """
  count, (height, width) = index.shape[0], images.shape[1:3]
  key_y, key_x, key_flip = jax.random.split(key, 3)

  def positions(key, size):
    offset = jax.random.randint(
      key, (count, 1), -how.padding, how.padding + 1, jnp.int32
    )
    return offset + jnp.arange(size, dtype=jnp.int32)[None, :]

  y, x = positions(key_y, height), positions(key_x, width)
  flipped = jnp.zeros((count, 1), bool)
  if how.flip:
    flipped = jax.random.bernoulli(key_flip, shape=(count, 1))
    x = jnp.where(flipped, x[:, ::-1], x)
  inside_y, inside_x = (y >= 0) & (y < height), (x >= 0) & (x < width)
  if how.mode == 'reflect':
    y, x = reflect(y, height), reflect(x, width)
  else:
    y, x = jnp.clip(y, 0, height - 1), jnp.clip(x, 0, width - 1)
  out = images[index[:, None, None], y[:, :, None], x[:, None, :]]
  if how.mode == 'zero':
    inside = inside_y[:, :, None] & inside_x[:, None, :]
    out = jnp.where(inside[..., None], out, jnp.uint8(0))
  return out, flipped[:, 0]


def reflect(position: jax.Array, size: int) -> jax.Array:
  """Mirrors positions outside 0..size-1 at the first and last pixel."""
  folded = jnp.abs(position)
  return jnp.minimum(folded, 2 * (size - 1) - folded)


def normalise(
  images: jax.Array, mean: Sequence[float], std: Sequence[float]
) -> jax.Array:
  """(images/255 - mean) / std of images [N,H,W,3] u8, f32."""
  scaled = images.astype(jnp.float32) / 255
  shape = (1, 1, 1, 3)
  return (scaled - jnp.reshape(jnp.array(mean), shape)) / jnp.reshape(
    jnp.array(std), shape
  )
