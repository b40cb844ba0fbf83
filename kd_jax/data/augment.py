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
  images: jax.Array, key: jax.Array, how: CropFlip
) -> tuple[jax.Array, jax.Array]:
  """Crops and flips images.

  A crop is two products with matrices of zeros and ones, whose entry (i, j)
  says that row (column) i of the crop is row (column) j of the image: exact,
  and faster on a TPU than a gather, which takes pixel by pixel there. On a CPU
  it is a gather.

  Args:
    images: [N,H,W,3] u8.
    key: decides crops and flips; each image's own.
    how: what to do.

  Returns:
    [N,H,W,3] u8, and which of them are mirrored, [N] bool.
  """
  count, height, width, _ = images.shape
  key_y, key_x, key_flip = jax.random.split(key, 3)

  def positions(key, size):
    offset = jax.random.randint(
      key, (count, 1), -how.padding, how.padding + 1, jnp.int32
    )
    position = offset + jnp.arange(size, dtype=jnp.int32)[None, :]
    return reflect(position, size) if how.mode == 'reflect' else position

  if how.padding:
    images = jax.lax.platform_dependent(
      images,
      positions(key_y, height),
      positions(key_x, width),
      cpu=_gathered,
      default=_multiplied,
    )
  flipped = jnp.zeros((count,), bool)
  if how.flip:
    flipped = jax.random.bernoulli(key_flip, shape=(count, 1))[:, 0]
    images = jnp.where(flipped[:, None, None, None], images[:, :, ::-1], images)
  return images, flipped


def _multiplied(images: jax.Array, y: jax.Array, x: jax.Array) -> jax.Array:
  """Rows y [N,H] and columns x [N,W] of images; 0 where they are outside."""

  def chosen(position):
    every = jnp.arange(position.shape[1], dtype=jnp.int32)[None, None, :]
    return (position[:, :, None] == every).astype(jnp.float32)

  # The pixels' 8 bits are exact in whatever precision the device multiplies.
  pixels = jnp.einsum('nyh,nhwc->nywc', chosen(y), images.astype(jnp.float32))
  pixels = jnp.einsum('nxw,nywc->nyxc', chosen(x), pixels)
  return pixels.astype(jnp.uint8)


def _gathered(images: jax.Array, y: jax.Array, x: jax.Array) -> jax.Array:
  """The same."""
  count, height, width, _ = images.shape
  inside = ((y >= 0) & (y < height))[:, :, None]
  inside &= ((x >= 0) & (x < width))[:, None, :]
  y, x = jnp.clip(y, 0, height - 1), jnp.clip(x, 0, width - 1)
  index = jnp.arange(count, dtype=jnp.int32)[:, None, None]
  out = images[index, y[:, :, None], x[:, None, :]]
  return jnp.where(inside[..., None], out, jnp.uint8(0))


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
