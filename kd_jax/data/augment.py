"""Augmentation and normalisation of uint8 images, inside jit."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp


class CropFlip(NamedTuple):
  """A random crop of the padded image, followed by a random mirroring.

  Attributes:
    padding: Pixels added on every side before the crop; 0 does not crop.
    mode: The content of the padding: 'zero' (black, before normalisation) or
      'reflect' (mirrored without repeating the edge).
    flip: Whether an image is mirrored left to right with probability 1/2.
  """

  padding: int = 4
  mode: Literal['zero', 'reflect'] = 'zero'
  flip: bool = True


def crop_flip(
  images: jax.Array, key: jax.Array, how: CropFlip
) -> tuple[jax.Array, jax.Array]:
  """Returns randomly cropped and mirrored images.

  Every image has a random offset and flip of its own. A crop is two products
  with matrices of zeros and ones, whose entry (i, j) says that row (column) i
  of the crop is row (column) j of the image. This is exact, and faster on a TPU
  than a gather, which takes pixel by pixel there. On a CPU it is a gather.

  Args:
    images: The images, [N,H,W,3] u8.
    key: The random key of the batch.
    how: The augmentation.

  Returns:
    The images [N,H,W,3] u8, and which of them are mirrored, [N] bool.
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
  """Returns crops [N,H,W,3] u8 by matrix products.

  Args:
    images: The images, [N,H,W,3] u8.
    y: The image row of every row of the crop, [N,H] i32.
    x: The image column of every column of the crop, [N,W] i32.

  Returns:
    The crops; a pixel from outside the image is 0.
  """

  def chosen(position):
    indices = jnp.arange(position.shape[1], dtype=jnp.int32)[None, None, :]
    return (position[:, :, None] == indices).astype(jnp.float32)

  # 8-bit pixels are exact in every precision that a device multiplies in.
  pixels = jnp.einsum('nyh,nhwc->nywc', chosen(y), images.astype(jnp.float32))
  pixels = jnp.einsum('nxw,nywc->nyxc', chosen(x), pixels)
  return pixels.astype(jnp.uint8)


def _gathered(images: jax.Array, y: jax.Array, x: jax.Array) -> jax.Array:
  """Returns what `_multiplied` returns, by a gather."""
  count, height, width, _ = images.shape
  inside = ((y >= 0) & (y < height))[:, :, None]
  inside &= ((x >= 0) & (x < width))[:, None, :]
  y, x = jnp.clip(y, 0, height - 1), jnp.clip(x, 0, width - 1)
  index = jnp.arange(count, dtype=jnp.int32)[:, None, None]
  cropped = images[index, y[:, :, None], x[:, None, :]]
  return jnp.where(inside[..., None], cropped, jnp.uint8(0))


def reflect(position: jax.Array, size: int) -> jax.Array:
  """Returns positions mirrored into 0..size-1 at the first and last pixel."""
  folded = jnp.abs(position)
  return jnp.minimum(folded, 2 * (size - 1) - folded)


def normalise(
  images: jax.Array, mean: Sequence[float], std: Sequence[float]
) -> jax.Array:
  """Returns (images/255 - mean) / std, [N,H,W,3] f32.

  Args:
    images: The images, [N,H,W,3] u8.
    mean: The mean of each channel, of pixels scaled to 0..1.
    std: The standard deviation of each channel, of pixels scaled to 0..1.
  """
  scaled = images.astype(jnp.float32) / 255
  shape = (1, 1, 1, 3)
  return (scaled - jnp.reshape(jnp.array(mean), shape)) / jnp.reshape(
    jnp.array(std), shape
  )
