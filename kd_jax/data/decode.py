"""Decoding of image files, and resizing and cropping of images."""

import io
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
import simplejpeg

from kd_jax import errors

_JPEG = b'\xff\xd8'
_COLOURS = ('YCbCr', 'Gray', 'RGB')  # Pillow decodes CMYK


def decode(content: bytes, where: str) -> np.ndarray:
  """Returns an encoded image (JPEG, PNG, ...) as [h,w,3] u8.

  Args:
    content: The content of the file.
    where: The path or name of the image, for the error message.

  Raises:
    UsageError: The image cannot be decoded.
  """
  if content.startswith(_JPEG):
    try:
      if simplejpeg.decode_jpeg_header(content)[2] in _COLOURS:
        return simplejpeg.decode_jpeg(content, 'RGB')
    except ValueError:
      pass  # Pillow reports what is broken
  try:
    with Image.open(io.BytesIO(content)) as image:
      return np.asarray(image.convert('RGB'))
  except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
    unidentified = isinstance(error, UnidentifiedImageError)
    reason = 'no image format that is known' if unidentified else error
    raise errors.UsageError(
      f'unreadable image {where}: {reason}; repair or remove it'
    ) from error


def fit(image: np.ndarray, size: int) -> np.ndarray:
  """Returns the image as [size,size,3] u8, as it is used in evaluation.

  An image of another size is scaled so that its shorter side is 8/7 of `size`
  (256 for 224), and cropped at the centre.

  Args:
    image: The image, [h,w,3] u8.
    size: The height and width of the result, in pixels.
  """
  if image.shape[:2] == (size, size):
    return image
  height, width = image.shape[:2]
  scale = size * 8 / 7 / min(height, width)
  sides = (max(size, round(width * scale)), max(size, round(height * scale)))
  scaled = Image.fromarray(image).resize(sides, Image.Resampling.BILINEAR)
  left, top = (sides[0] - size) // 2, (sides[1] - size) // 2
  return np.asarray(scaled.crop((left, top, left + size, top + size)))


def random_resized_crop(
  image: np.ndarray, size: int, rng: Any, scale: tuple[float, float]
) -> np.ndarray:
  """Returns a random crop of the image, resized to [size,size,3] u8.

  The area of the crop is a uniform fraction of the image's area, its aspect
  ratio is log-uniform within 3/4..4/3. After ten crops that do not fit the
  image, the largest centred square is taken.

  Args:
    image: The image, [h,w,3] u8.
    size: The height and width of the result, in pixels.
    rng: A NumPy generator.
    scale: The least and the greatest fraction of the area.

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
  crop = Image.fromarray(image).resize(
    (size, size), Image.Resampling.BILINEAR, box=box
  )
  return np.asarray(crop)
