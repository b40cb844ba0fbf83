"""Augmentation of images together with their objects' boxes, on the host.

Everything that moves an image is one window: a rectangle in fractions of the
image, which may reach out of it, and which becomes the whole result.

Source: Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016, section
2.2; `augmentations.py` of ssd.pytorch 5b0b77f. There the condition on a crop's
overlap can never refuse a crop; here some object's overlap with the crop
reaches the least one, as the paper says. Windows are not rounded to pixels
here, and results are rounded to 8 bits.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from PIL import Image

# What a crop draws first: the least overlap of some object with it (-1 asks for
# none), or None for the whole image.
CROPS = (None, 0.1, 0.3, 0.7, 0.9, -1.0)
_TRIES = 50  # for a crop that reaches the least overlap
_LEAST_SIDE = 0.3  # of a crop, in fractions
_ASPECTS = (0.5, 2.0)  # of a crop's height to its width, in pixels
WHOLE = (0.0, 0.0, 1.0, 1.0)


class Boxed(NamedTuple):
  """How images with boxes are augmented.

  Attributes:
    size: The height and width of the results, in pixels.
    mean: The colour around an image that is made smaller, of pixels scaled to
      0..1.
    photometric: Whether brightness, contrast, saturation, hue and the order of
      channels change.
    expand: The largest side of an image's surroundings, in sides of the image,
      with probability 1/2; 1 leaves it out.
    crop: Whether images are cropped.
    flip: Whether an image is mirrored left to right with probability 1/2.
  """

  size: int
  mean: tuple[float, ...]
  photometric: bool = True
  expand: float = 4.0
  crop: bool = True
  flip: bool = True


def augmented(
  rng: np.random.Generator,
  image: np.ndarray,
  target: Mapping[str, np.ndarray],
  how: Boxed,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
  """Returns an augmented image with its objects that are trained on.

  Difficult objects are dropped first, so that no crop is chosen by them.

  Args:
    rng: The generator of all random numbers.
    image: The image, [h,w,3] u8.
    target: The objects: 'boxes' [M,4] f32 in corner form, in fractions of the
      image, 'label' [M] i32, where -1 pads, and 'difficult' [M] bool.
    how: The augmentation.

  Returns:
    The image [size,size,3] u8, and the objects in as many rows as before.
  """
  trained = (target['label'] >= 0) & ~target['difficult']
  image, boxes, labels = augment(
    rng, image, target['boxes'][trained], target['label'][trained], how
  )
  rows = slice(len(labels))
  result = {
    'boxes': np.zeros_like(target['boxes']),
    'label': np.full_like(target['label'], -1),
    'difficult': np.zeros_like(target['difficult']),
  }
  result['boxes'][rows], result['label'][rows] = boxes, labels
  return image, result


def augment(
  rng: np.random.Generator,
  image: np.ndarray,
  boxes: np.ndarray,
  labels: np.ndarray,
  how: Boxed,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns an augmented image with the objects that are still in it.

  The result depends on nothing but the arguments.

  Args:
    rng: The generator of all random numbers.
    image: The image, [h,w,3] u8.
    boxes: The boxes in corner form, in fractions of the image, [G,4] f32.
    labels: The objects' classes, [G] i32.
    how: The augmentation.

  Returns:
    The image [size,size,3] u8, the boxes [g,4] f32, clipped to the image, and
    the labels [g] i32 of the objects whose centres are in it.
  """
  if how.photometric:
    image = photometric(rng, image)
  window = np.array(WHOLE)
  if how.expand > 1 and rng.random() < 0.5:
    window = expanded(rng, how.expand)
  if how.crop:
    aspect = image.shape[0] / image.shape[1]
    inner = cropped(rng, seen(boxes, window), aspect)
    window = window[[0, 1, 0, 1]] + inner * np.tile(sides(window), 2)
  boxes = seen(boxes, window)
  centres = (boxes[:, :2] + boxes[:, 2:]) / 2
  inside = ((centres > 0) & (centres < 1)).all(axis=1)
  boxes, labels = boxes[inside].clip(0, 1), labels[inside]
  if how.flip and rng.random() < 0.5:
    window = window[[2, 1, 0, 3]]
    boxes = np.stack(
      [1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]], axis=1
    )
  fill = tuple(round(255 * value) for value in how.mean)
  result = shown(image, window, how.size, fill)
  return result, boxes.astype(np.float32), labels


def whole(image: np.ndarray, size: int) -> np.ndarray:
  """Returns the whole image at the size of a network's input; see `shown`.

  Args:
    image: The image, [h,w,3] u8.
    size: The height and width of the result, in pixels.
  """
  if image.shape[:2] == (size, size):
    return image
  return shown(image, WHOLE, size)


def shown(
  image: np.ndarray,
  window: np.ndarray | tuple[float, ...],
  size: int,
  fill: tuple[int, ...] = (0, 0, 0),
) -> np.ndarray:
  """Returns what is seen through a window, without keeping its aspect.

  Pixels are interpolated bilinearly and not averaged, as OpenCV does.

  Args:
    image: The image, [h,w,3] u8.
    window: (x1, y1, x2, y2) in fractions of the image, [4] f64; it is mirrored
      where x2 is less than x1.
    size: The height and width of the result, in pixels.
    fill: The colour of what is not on the image.

  Returns:
    [size,size,3] u8.
  """
  height, width, _ = image.shape
  extent = np.array(window) * (width, height, width, height)
  result = Image.fromarray(image).transform(
    (size, size),
    Image.Transform.EXTENT,
    tuple(extent.tolist()),
    Image.Resampling.BILINEAR,
    fillcolor=fill,
  )
  return np.asarray(result)


def sides(boxes: np.ndarray) -> np.ndarray:
  """Returns the width and height of boxes in corner form, [...,2]."""
  return boxes[..., 2:] - boxes[..., :2]


def seen(boxes: np.ndarray, window: np.ndarray) -> np.ndarray:
  """Returns boxes [G,4] in fractions of a window [4], neither clipped."""
  first = np.tile(window[:2], 2)
  return (np.asarray(boxes, np.float64) - first) / np.tile(sides(window), 2)


def expanded(rng: np.random.Generator, most: float) -> np.ndarray:
  """Returns a window that shows the whole image smaller, at a random place.

  Args:
    rng: The generator.
    most: The window's largest side, in sides of the image.

  Returns:
    The window in fractions of the image, [4] f64.
  """
  side = rng.uniform(1, most)
  first = -rng.uniform(0, side - 1, size=2)
  return np.concatenate([first, first + side])


def cropped(
  rng: np.random.Generator, boxes: np.ndarray, aspect: float
) -> np.ndarray:
  """Returns a random window in which there is the centre of some object.

  Args:
    rng: The generator.
    boxes: The boxes in corner form, in fractions of the image, [G,4] f64. An
      image without objects is not cropped.
    aspect: The image's height, in its widths.

  Returns:
    The window in fractions of the image, [4] f64.
  """
  centres = (boxes[:, :2] + boxes[:, 2:]) / 2
  while len(boxes):
    least = CROPS[rng.integers(len(CROPS))]
    if least is None:
      break
    size = rng.uniform(_LEAST_SIDE, 1, size=(_TRIES, 2))
    first = rng.uniform(0, 1 - size)
    windows = np.concatenate([first, first + size], axis=1)
    ratio = aspect * size[:, 1] / size[:, 0]
    inside = (centres > windows[:, None, :2]) & (centres < windows[:, None, 2:])
    fits = (ratio >= _ASPECTS[0]) & (ratio <= _ASPECTS[1])
    fits &= inside.all(axis=2).any(axis=1)
    fits &= overlaps(boxes, windows[:, None]).max(axis=1) >= least
    if fits.any():
      return windows[fits.argmax()]
  return np.array(WHOLE)


def overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Returns the intersection over the union of boxes [...,4], [...] f64."""
  last = np.minimum(a[..., 2:], b[..., 2:])
  both = np.maximum(last - np.maximum(a[..., :2], b[..., :2]), 0).prod(axis=-1)
  return both / (sides(a).prod(axis=-1) + sides(b).prod(axis=-1) - both)


def photometric(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
  """Returns an image [h,w,3] u8 with other colours, [h,w,3] u8.

  Brightness changes by up to 32 levels and contrast by up to a half, before or
  after saturation (by up to a half) and hue (by up to 18 degrees); then the
  channels may change places. Each happens with probability 1/2.
  """

  def happens() -> bool:
    return bool(rng.random() < 0.5)

  pixels = image.astype(np.float32)
  if happens():
    pixels += np.float32(rng.uniform(-32, 32))
  first = happens()
  contrast = np.float32(rng.uniform(0.5, 1.5)) if happens() else np.float32(1)
  if first:
    pixels *= contrast
  saturation = rng.uniform(0.5, 1.5) if happens() else 1.0
  turn = rng.uniform(-18, 18) if happens() else 0.0
  if (saturation, turn) != (1.0, 0.0):
    hue, of_colour, value = hsv(pixels)
    pixels = rgb(
      (hue + np.float32(turn)) % 360, of_colour * np.float32(saturation), value
    )
  if not first:
    pixels *= contrast
  if happens():
    pixels = pixels[..., rng.permutation(3)]
  return np.rint(pixels).clip(0, 255).astype(np.uint8)


def hsv(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns hue (degrees), saturation (0..1) and value of colours.

  Args:
    pixels: Red, green and blue in any unit, [h,w,3] f32.

  Returns:
    [h,w] f32 each; the value is in the unit of the pixels. Grey and what is not
    above 0 has the hue and the saturation 0.
  """
  red, green, blue = np.moveaxis(pixels, -1, 0)
  value = pixels.max(axis=-1)
  span = value - pixels.min(axis=-1)
  part = np.where(span > 0, span, 1)
  sixths = np.select(
    [value == red, value == green],
    [(green - blue) / part, (blue - red) / part + 2],
    (red - green) / part + 4,
  )
  coloured = (span > 0) & (value > 0)
  saturation = np.where(coloured, span / np.where(coloured, value, 1), 0)
  return np.where(coloured, 60 * sixths % 360, 0), saturation, value


def rgb(
  hue: np.ndarray, saturation: np.ndarray, value: np.ndarray
) -> np.ndarray:
  """Returns the colours [h,w,3] f32 of hue, saturation and value; see `hsv`."""
  sixths = np.stack([hue / 60 + n for n in (5, 3, 1)], axis=-1) % 6
  missing = np.minimum(sixths, 4 - sixths).clip(0, 1)
  return value[..., None] * (1 - saturation[..., None] * missing)
