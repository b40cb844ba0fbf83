"""Operations on single images, on the host, with Pillow's pixels.

Each equals that of torchvision's functions on Pillow's images, bit for bit:
nearest pixels, and black where a pixel comes from outside the image.
"""

from collections.abc import Callable, Mapping
import math
import types

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

_BLACK = (0, 0, 0)

# An operation takes an image and a magnitude.
Operation = Callable[[Image.Image, float], Image.Image]


def _affine(image: Image.Image, *matrix: float) -> Image.Image:
  """Returns an image whose pixel (x, y) is that of matrix * (x, y, 1)."""
  return image.transform(
    image.size,
    Image.Transform.AFFINE,
    matrix,
    Image.Resampling.NEAREST,
    fillcolor=_BLACK,
  )


def shear_x(image: Image.Image, slope: float) -> Image.Image:
  """Returns an image sheared about its corner: x moves by slope * y."""
  return _affine(image, 1, slope, 0, 0, 1, 0)


def shear_y(image: Image.Image, slope: float) -> Image.Image:
  """Returns an image sheared about its corner: y moves by slope * x."""
  return _affine(image, 1, 0, 0, slope, 1, 0)


def translate_x(image: Image.Image, pixels: float) -> Image.Image:
  """Returns an image moved to the right by whole pixels, towards 0."""
  return _affine(image, 1, 0, -int(pixels), 0, 1, 0)


def translate_y(image: Image.Image, pixels: float) -> Image.Image:
  """Returns an image moved down by whole pixels, towards 0."""
  return _affine(image, 1, 0, 0, 0, 1, -int(pixels))


def rotate(image: Image.Image, degrees: float) -> Image.Image:
  """Returns an image turned counter-clockwise about its centre."""
  return image.rotate(degrees, Image.Resampling.NEAREST, fillcolor=_BLACK)


def brightness(image: Image.Image, factor: float) -> Image.Image:
  """Returns an image blended with black; the factor 1 changes nothing."""
  return ImageEnhance.Brightness(image).enhance(factor)


def contrast(image: Image.Image, factor: float) -> Image.Image:
  """Returns an image blended with its mean grey level."""
  return ImageEnhance.Contrast(image).enhance(factor)


def saturation(image: Image.Image, factor: float) -> Image.Image:
  """Returns an image blended with its grey levels."""
  return ImageEnhance.Color(image).enhance(factor)


def sharpness(image: Image.Image, factor: float) -> Image.Image:
  """Returns an image blended with what it is when smoothed."""
  return ImageEnhance.Sharpness(image).enhance(factor)


def hue(image: Image.Image, share: float) -> Image.Image:
  """Returns an image whose hues are turned by a share of the circle."""
  hues, others, values = image.convert('HSV').split()
  turned = np.asarray(hues, np.int32) + int(share * 255)
  moved = Image.fromarray((turned % 256).astype(np.uint8))
  return Image.merge('HSV', (moved, others, values)).convert('RGB')


def posterize(image: Image.Image, bits: float) -> Image.Image:
  """Returns an image with the upper bits of each level, of 8."""
  return ImageOps.posterize(image, int(bits))


def solarize(image: Image.Image, threshold: float) -> Image.Image:
  """Returns an image whose levels from the threshold on are inverted."""
  return ImageOps.solarize(image, math.ceil(threshold))


def _of_image(function: Callable[[Image.Image], Image.Image]) -> Operation:
  return lambda image, magnitude: function(image)


def _from_1(function: Operation) -> Operation:
  return lambda image, magnitude: function(image, 1 + magnitude)


# By the names of the papers and of torchvision. The magnitude of the blends is
# what their factor has above 1; some operations have none.
BY_NAME: Mapping[str, Operation] = types.MappingProxyType(
  {
    'Identity': _of_image(lambda image: image),
    'ShearX': shear_x,
    'ShearY': shear_y,
    'TranslateX': translate_x,
    'TranslateY': translate_y,
    'Rotate': rotate,
    'Brightness': _from_1(brightness),
    'Color': _from_1(saturation),
    'Contrast': _from_1(contrast),
    'Sharpness': _from_1(sharpness),
    'Posterize': posterize,
    'Solarize': solarize,
    'AutoContrast': _of_image(ImageOps.autocontrast),
    'Equalize': _of_image(ImageOps.equalize),
    'Invert': _of_image(ImageOps.invert),
  }
)
