"""Encoded images to pixels."""

import io
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
import simplejpeg

from kd_jax import errors

_JPEG = b'\xff\xd8'
_COLOURS = ('YCbCr', 'Gray', 'RGB')  # CMYK is left to Pillow


def decode(content: bytes, where: str) -> np.ndarray:
  """An encoded image (JPEG, PNG, ...) as [h,w,3] u8.

  Args:
    content: the file.
    where: its path or name, for the message.

  Raises:
    UsageError: where it cannot be read.
  """
  if content.startswith(_JPEG):
    try:
      if simplejpeg.decode_jpeg_header(content)[2] in _COLOURS:
        return simplejpeg.decode_jpeg(content, 'RGB')
    except ValueError:
      pass  # Pillow says what is broken
  try:
    with Image.open(io.BytesIO(content)) as image:
      return np.asarray(image.convert('RGB'))
  except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
    known = isinstance(error, UnidentifiedImageError)
    why = 'no image format that is known' if known else error
    raise errors.UsageError(
      f'unreadable image {where}: {why}; mend or remove it'
    ) from error


def fit(image: np.ndarray, size: int) -> np.ndarray:
  """The image as [size,size,3] u8, as evaluation shows it.

  An image of another size is scaled so that its shorter side is 8/7 of `size`
  (256 for 224), and its centre is taken.
  """
  if image.shape[:2] == (size, size):
    return image
  height, width = image.shape[:2]
  scale = size * 8 / 7 / min(height, width)
  larger = (max(size, round(width * scale)), max(size, round(height * scale)))
  scaled = Image.fromarray(image).resize(larger, Image.Resampling.BILINEAR)
  left, top = (larger[0] - size) // 2, (larger[1] - size) // 2
  return np.asarray(scaled.crop((left, top, left + size, top + size)))


def random_resized_crop(
  image: np.ndarray, size: int, rng: Any, scale: tuple[float, float]
) -> np.ndarray:
  """A random part of the image, as [size,size,3] u8.

  Its area is a fraction within `scale` of the image's, its aspect ratio
  log-uniform within 3/4..4/3; after ten misses the centre is taken.

  Args:
    image: [h,w,3] u8.
    size: of the result.
    rng: a numpy generator.
    scale: least and greatest fraction of the area.

  Source: torchvision's RandomResizedCrop (Szegedy et al., CVPR 2015).
  """
  height, width = image.shape[:2]
  box = None
  for _ in range(10):
    area = height * width * rng.uniform(*scale)
    ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
    w, h = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
    if 0 < w <= width and 0 < h <= height:
      left = rng.integers(0, width - w + 1)
      top = rng.integers(0, height - h + 1)
      box = (int(left), int(top), int(left + w), int(top + h))
      break
  if box is None:
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    box = (left, top, left + side, top + side)
  part = Image.fromarray(image).resize(
    (size, size), Image.Resampling.BILINEAR, box=box
  )
  return np.asarray(part)
