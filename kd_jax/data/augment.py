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
  and faster on a TPU than a gather, which takes pixel by pixel there.

  Args:
    images: [N,H,W,3] u8.
    key: decides crops and flips; each image's own.
    how: what to do.

  Returns:
    [N,H,W,3] u8, and which of them are mirrored, [N] bool.
  """
  count, height, width, _ = images.shape
  key_y, key_x, key_flip = jax.random.split(key, 3)

  def chosen(key, size):
    offset = jax.random.randint(
      key, (count, 1), -how.padding, how.padding + 1, jnp.int32
    )
    every = jnp.arange(size, dtype=jnp.int32)
    position = offset + every[None, :]
    if how.mode == 'reflect':
      position = reflect(position, size)
    # A position outside is nowhere: the padding's zeros.
    return (position[:, :, None] == every[None, None, :]).astype(jnp.float32)

  if how.padding:
    rows, columns = chosen(key_y, height), chosen(key_x, width)
    # The pixels' 8 bits are exact in whatever precision the device multiplies.
    pixels = jnp.einsum('nyh,nhwc->nywc', rows, images.astype(jnp.float32))
    pixels = jnp.einsum('nxw,nywc->nyxc', columns, pixels)
    images = pixels.astype(jnp.uint8)
  flipped = jnp.zeros((count,), bool)
  if how.flip:
    flipped = jax.random.bernoulli(key_flip, shape=(count, 1))[:, 0]
    images = jnp.where(flipped[:, None, None, None], images[:, :, ::-1], images)
  return images, flipped


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
