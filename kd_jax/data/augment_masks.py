"""Augmentation of images together with their masks, on the host.

Source: `custom_transforms.py` of overhaul-distillation 76344a8 (Segmentation),
which is that of pytorch-deeplab-xception.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter


class Masked(NamedTuple):
  """How images with masks are augmented.

  Attributes:
    size: The height and width of the results, in pixels.
    scale: The least and the greatest length of an image's shorter side, in
      pixels; both are taken.
    pad_label: The label around an image that is smaller than the result. The
      original's is 0, the background, which counts; 255 counts nowhere.
    flip: Whether an image is mirrored left to right with probability 1/2.
    blur: Whether an image is blurred with probability 1/2.
  """

  size: int
  scale: tuple[int, int] = (256, 1026)
  pad_label: int = 0
  flip: bool = True
  blur: bool = True


def augment(
  rng: np.random.Generator, image: np.ndarray, mask: np.ndarray, how: Masked
) -> tuple[np.ndarray, np.ndarray]:
  """Returns an augmented image with its mask.

  They are mirrored, scaled, padded at the right and the bottom, and cropped;
  then the image is blurred. The result depends on nothing but the arguments.

  Args:
    rng: The generator of all random numbers.
    image: The image, [h,w,3] u8.
    mask: The labels of its pixels, [h,w] u8.
    how: The augmentation.

  Returns:
    The image [size,size,3] u8 and the mask [size,size] u8.
  """
  if how.flip and rng.random() < 0.5:
    image, mask = image[:, ::-1], mask[:, ::-1]
  short = int(rng.integers(how.scale[0], how.scale[1] + 1))
  height, width = scaled_sides(image.shape[:2], short)
  image, mask = resized(image, mask, height, width)
  down, right = max(0, how.size - height), max(0, how.size - width)
  if down or right:
    around = (0, down), (0, right)
    image = np.pad(image, (*around, (0, 0)))
    mask = np.pad(mask, around, constant_values=how.pad_label)
  y = int(rng.integers(image.shape[0] - how.size + 1))
  x = int(rng.integers(image.shape[1] - how.size + 1))
  part = slice(y, y + how.size), slice(x, x + how.size)
  image, mask = image[part], mask[part]
  if how.blur and rng.random() < 0.5:
    blur = ImageFilter.GaussianBlur(rng.random())
    image = np.asarray(Image.fromarray(image).filter(blur))
  return np.ascontiguousarray(image), np.ascontiguousarray(mask)


def scaled_sides(sides: tuple[int, ...], short: int) -> tuple[int, int]:
  """Returns the height and width of an image whose shorter side is `short`.

  The longer side keeps the aspect and is rounded down, as in the original.

  Args:
    sides: The image's height and width, in pixels.
    short: The wanted shorter side, in pixels.
  """
  height, width = sides
  if height > width:
    return int(height * short / width), short
  return short, int(width * short / height)


def resized(
  image: np.ndarray, mask: np.ndarray, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns an image and its mask at other sides.

  Pixels are interpolated bilinearly and averaged, labels are the nearest's.

  Args:
    image: The image, [h,w,3] u8.
    mask: The labels of its pixels, [h,w] u8.
    height: The height of the results, in pixels.
    width: The width of the results, in pixels.

  Returns:
    The image [height,width,3] u8 and the mask [height,width] u8.
  """
  if image.shape[:2] == (height, width):
    return image, mask
  bilinear, nearest = Image.Resampling.BILINEAR, Image.Resampling.NEAREST
  pixels = Image.fromarray(image).resize((width, height), bilinear)
  labels = Image.fromarray(mask).resize((width, height), nearest)
  return np.asarray(pixels), np.asarray(labels)
