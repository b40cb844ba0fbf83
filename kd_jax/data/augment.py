"""Augmentation and normalisation of uint8 images, inside jit."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from kd_jax.data.masks import VOID


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


class Moved(NamedTuple):
  """Where the pixels of cropped and mirrored images come from.

  Attributes:
    y: The image row of every row of the crop, before mirroring, [N,H] i32;
      outside 0..H-1 it is padding. None where nothing is cropped.
    x: The same for columns, [N,W] i32.
    flipped: Which images are mirrored after the crop, [N] bool.
  """

  y: jax.Array | None
  x: jax.Array | None
  flipped: jax.Array


def crop_flip(
  images: jax.Array, key: jax.Array, how: CropFlip
) -> tuple[jax.Array, Moved]:
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
    The images [N,H,W,3] u8, and where their pixels come from.
  """
  count, height, width, _ = images.shape
  key_y, key_x, key_flip = jax.random.split(key, 3)

  def positions(key, size):
    offset = jax.random.randint(
      key, (count, 1), -how.padding, how.padding + 1, jnp.int32
    )
    position = offset + jnp.arange(size, dtype=jnp.int32)[None, :]
    return reflect(position, size) if how.mode == 'reflect' else position

  y = x = None
  if how.padding:
    y, x = positions(key_y, height), positions(key_x, width)
    images = jax.lax.platform_dependent(
      images, y, x, cpu=gathered, default=_multiplied
    )
  flipped = jnp.zeros((count,), bool)
  if how.flip:
    flipped = jax.random.bernoulli(key_flip, shape=(count, 1))[:, 0]
    images = jnp.where(flipped[:, None, None, None], images[:, :, ::-1], images)
  return images, Moved(y, x, flipped)


def targets(
  given: Mapping[str, jax.Array], moved: Moved | None = None
) -> dict[str, jax.Array]:
  """Returns the targets of a batch, moved as its images are.

  Class indices stay. Pixels of a mask from outside the image are `VOID`. An
  object goes where its centre leaves the image; the others' boxes are clipped.

  Args:
    given: The targets: 'label', which is [N] class indices, [N,H,W] masks or
      [N,M] classes of objects (-1 pads), and 'boxes' [N,M,4] f32 of objects,
      (x1, y1, x2, y2) in fractions of the image; others stay.
    moved: How the images were moved; None where they were not.

  Returns:
    The targets; integers are i32.
  """
  found = dict(given)
  if moved is not None and 'boxes' in given:
    found |= _moved_boxes(given['boxes'], given['label'], moved)
  elif moved is not None and given['label'].ndim == 3:
    mask = given['label']
    if moved.y is not None and moved.x is not None:
      mask = gathered(mask, moved.y, moved.x, VOID)
    mirrored = moved.flipped[:, None, None]
    found['label'] = jnp.where(mirrored, mask[:, :, ::-1], mask)
  return {
    name: value.astype(jnp.int32)
    if jnp.issubdtype(value.dtype, jnp.integer)
    else value
    for name, value in found.items()
  }


def _moved_boxes(
  boxes: jax.Array, label: jax.Array, moved: Moved
) -> dict[str, jax.Array]:
  if moved.y is not None and moved.x is not None:
    # Positions grow by one a pixel: only the first is needed.
    height, width = moved.y.shape[1], moved.x.shape[1]
    offset = jnp.stack([moved.x[:, 0] / width, moved.y[:, 0] / height], -1)
    boxes = boxes - jnp.tile(offset, 2)[:, None]
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2
    inside = ((centre >= 0) & (centre < 1)).all(-1)
    label = jnp.where(inside, label, -1)
    boxes = boxes.clip(0, 1)
  x1, y1, x2, y2 = jnp.moveaxis(boxes, -1, 0)
  mirrored = jnp.stack([1 - x2, y1, 1 - x1, y2], -1)
  boxes = jnp.where(moved.flipped[:, None, None], mirrored, boxes)
  return {'boxes': boxes, 'label': label}


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


def gathered(
  images: jax.Array, y: jax.Array, x: jax.Array, outside: int = 0
) -> jax.Array:
  """Returns crops of images, by a gather.

  Args:
    images: The images, [N,H,W,...] of any dtype.
    y: The image row of every row of the crop, [N,H] i32.
    x: The image column of every column of the crop, [N,W] i32.
    outside: The value of a pixel from outside the image.
  """
  count, height, width = images.shape[:3]
  inside = ((y >= 0) & (y < height))[:, :, None]
  inside &= ((x >= 0) & (x < width))[:, None, :]
  y, x = jnp.clip(y, 0, height - 1), jnp.clip(x, 0, width - 1)
  index = jnp.arange(count, dtype=jnp.int32)[:, None, None]
  cropped = images[index, y[:, :, None], x[:, None, :]]
  inside = inside.reshape(*inside.shape, *(1,) * (images.ndim - 3))
  return jnp.where(inside, cropped, jnp.asarray(outside, images.dtype))


def reflect(position: jax.Array, size: int) -> jax.Array:
  """Returns positions mirrored into 0..size-1 at the first and last pixel."""
  folded = jnp.abs(position)
  return jnp.minimum(folded, 2 * (size - 1) - folded)


def normalise(
  images: jax.Array, mean: Sequence[float], std: Sequence[float]
) -> jax.Array:
  """Returns (images/255 - mean) / std, [N,H,W,3] f32.

  Args:
    images: The images, [N,H,W,3] u8, or f32 in 0..255.
    mean: The mean of each channel, of pixels scaled to 0..1.
    std: The standard deviation of each channel, of pixels scaled to 0..1.
  """
  scaled = images.astype(jnp.float32) / 255
  shape = (1, 1, 1, 3)
  return (scaled - jnp.reshape(jnp.array(mean), shape)) / jnp.reshape(
    jnp.array(std), shape
  )
