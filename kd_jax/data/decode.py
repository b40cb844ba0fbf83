"""Decoding of image files, and resizing and cropping of images."""

import io
import math
from typing import IO, Any

import numpy as np
from PIL import Image, TiffImagePlugin
import simplejpeg

from kd_jax import errors

# Files with these endings are taken for images; whether they are one is found
# out when they are read. Of any other file the first bytes tell.
SUFFIXES = (
  '.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.bmp', '.webp', '.gif', '.ppm',
  '.pgm', '.pbm', '.pnm', '.tif', '.tiff', '.avif', '.jp2',
)  # fmt: skip
# Only these are opened: for some of the others Pillow starts a program. Before
# 11.3 it has no AVIF, which stands at the end since Pillow stops there.
_FORMATS = (
  'JPEG', 'PNG', 'BMP', 'WEBP', 'GIF', 'PPM', 'TIFF', 'JPEG2000', 'AVIF',
)  # fmt: skip
_JPEG = b'\xff\xd8'
_COLOURS = ('YCbCr', 'Gray', 'RGB')  # Pillow decodes CMYK
# Where Pillow reads 16-bit grey as levels from 0 to 65535, by mode; it scales
# those of JPEG 2000 and of PGM to this range.
_DEEP = {
  ('PNG', 'I'), ('PPM', 'I'), ('PNG', 'I;16'), ('TIFF', 'I;16'),
  ('TIFF', 'I;16B'), ('JPEG2000', 'I;16'),
}  # fmt: skip
# What begins a scan of a JPEG. libjpeg goes through the whole image for each,
# so that some kB of empty scans would take minutes. Photographs have about ten;
# a film behind one has these bytes by chance, every 65,536 bytes.
_SCAN = b'\xff\xda'
# By how much less than its own size a JPEG is decoded; libjpeg is slow at the
# scales between them.
_FACTORS = (8, 4, 2, 1)
# How much larger than the result of `fit` the whole scaled image may be.
_MOST_AROUND = 64
# Left, top, right and bottom of a part of an image, in pixels.
Box = tuple[float, float, float, float]
# Tags of TIFF: bits of a sample, what 0 means, and the type of a sample.
_BITS, _PHOTOMETRIC, _TYPE = 258, 262, 339


def decode(content: bytes, where: str, **reduced: int) -> np.ndarray:
  """Returns an encoded image (JPEG, PNG, ...) as [h,w,3] u8.

  Grey is repeated in three channels, transparency is dropped, and a grey level
  of 16 bits is rounded to the nearest of 8 bits: 65535 becomes 255.

  Args:
    content: The content of the file.
    where: The path or name of the image, for the error message.
    **reduced: The arguments by which simplejpeg decodes a smaller image; of
      other formats than JPEG they change nothing.

  Raises:
    UsageError: The image cannot be decoded, is too large, or has pixels of no
      known range.
  """
  try:
    return _decoded(content, **reduced)
  except Exception as error:  # what a damaged file makes Pillow raise is open
    raise errors.UsageError(
      f'unreadable image {where}: {_reason(error)}; convert, repair or '
      'remove it'
    ) from error


def is_plain_jpeg(content: bytes) -> bool:
  """Returns whether a file's content is a JPEG in grey or RGB, by its header.

  Args:
    content: The content of the file.
  """
  if not content.startswith(_JPEG):
    return False
  try:
    return simplejpeg.decode_jpeg_header(content)[2] in _COLOURS
  except ValueError:
    return False


def read(path: Any) -> np.ndarray:
  """Returns the image in a file as [h,w,3] u8.

  Args:
    path: The path, of pathlib or of epath.

  Raises:
    UsageError: The file cannot be read, or `decode` refuses its content.
  """
  return decode(read_bytes(path), str(path))


def read_bytes(path: Any) -> bytes:
  """Returns the content of an image's file.

  Args:
    path: The path, of pathlib or of epath.

  Raises:
    UsageError: The file cannot be read.
  """
  try:
    return path.read_bytes()
  except OSError as error:
    raise errors.UsageError(
      f'cannot read image {path}: {error.strerror or error}; make it readable '
      'or remove it'
    ) from error
  except MemoryError as error:
    raise errors.UsageError(
      f'cannot read image {path}: it is larger than the memory; remove it'
    ) from error


def sides(path: Any) -> tuple[int, int]:
  """Returns the height and width of the image in a file, in pixels.

  They are those of `read`, which decodes the image.

  Args:
    path: The path, of pathlib or of epath.

  Raises:
    UsageError: The file cannot be read, or holds no image.
  """
  try:
    with path.open('rb') as file, Image.open(file, formats=_FORMATS) as image:
      return image.height, image.width
  except Exception:  # `read` says what is wrong
    height, width = read(path).shape[:2]
    return height, width


def is_image(file: IO[bytes]) -> bool:
  """Returns whether the first bytes of a file are those of an image."""
  try:
    with Image.open(file, formats=_FORMATS):
      return True
  except Image.DecompressionBombError:
    return True  # which `decode` refuses
  except Exception:  # what other content makes Pillow raise is open
    return False


def _scans(content: bytes) -> int:
  """Returns how often `_SCAN` is in a file; `bytes.count` is slower."""
  levels = np.frombuffer(content, np.uint8)
  markers = np.flatnonzero(levels[:-1] == _SCAN[0])
  return int(np.count_nonzero(levels[markers + 1] == _SCAN[1]))


def _sides_of_jpeg(content: bytes) -> tuple[int, int] | None:
  """Returns the height and width of a JPEG; None if Pillow shall read it."""
  if not content.startswith(_JPEG):
    return None
  try:
    height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
  except ValueError:
    return None
  most = 2 * (Image.MAX_IMAGE_PIXELS or 0)  # as Pillow does
  is_large = most and height * width > most
  return None if colours not in _COLOURS or is_large else (height, width)


def _decoded(content: bytes, **reduced: int) -> np.ndarray:
  if content.startswith(_JPEG):
    if (scans := _scans(content)) > 100 + len(content) // 10_000:
      raise ValueError(f'it has {scans} scans, so that it may be an attack')
    if _sides_of_jpeg(content):
      try:
        return simplejpeg.decode_jpeg(content, 'RGB', **reduced)
      except ValueError:
        pass  # Pillow reports what is broken
  with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
    return _rgb(image)


def _reason(error: Exception) -> str:
  if isinstance(error, Image.UnidentifiedImageError | KeyError):
    return 'no image format that is known'
  if isinstance(error, Image.DecompressionBombError):
    most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
    return f'it has more than {most} pixels, so that it may be an attack'
  return str(error).strip().partition('\n')[0] or type(error).__name__


def _rgb(image: Image.Image) -> np.ndarray:
  """Returns an image of any mode as [h,w,3] u8; see `decode`.

  The template of predict.py holds the same rules, since it stands alone.

  Raises:
    ValueError: The range of the pixels is not known.
  """
  is_deep = image.mode[:1] == 'I' or image.mode == 'F'
  known = (image.format, image.mode) in _DEEP or not is_deep
  top = 65535
  if isinstance(image, TiffImagePlugin.TiffImageFile):
    tags = image.tag_v2
    known &= {1, 4}.issuperset(tags.get(_TYPE, (1,)))  # unsigned, or unsaid
    if is_deep:
      known &= tags.get(_PHOTOMETRIC) == 1  # 0 is black
      top = 2 ** tags.get(_BITS, (16,))[0] - 1
  if not known:
    raise ValueError(
      f'its pixels ({image.format}, mode {image.mode}) have no known range, as '
      '8 or 16 unsigned bits a channel have'
    )
  if is_deep:
    levels = np.asarray(image).astype(np.uint32)
    grey = ((510 * levels + top) // (2 * top)).clip(0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)
  if 'transparency' in image.info and image.mode == 'P':
    image = image.convert('RGBA')  # without which Pillow warns
  return np.asarray(image.convert('RGB'))


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
  if math.prod(sides) > max(height * width, _MOST_AROUND * size**2):
    return _middle_of_strip(image, sides, size)
  scaled = Image.fromarray(image).resize(sides, Image.Resampling.BILINEAR)
  left, top = (sides[0] - size) // 2, (sides[1] - size) // 2
  return np.asarray(scaled.crop((left, top, left + size, top + size)))


def _middle_of_strip(
  image: np.ndarray, sides: tuple[int, int], size: int
) -> np.ndarray:
  """Returns what `fit` does, up to rounding, and scales no more than that.

  A strip of 60,000 x 1 pixels would become 9 GB. Pillow has the edges of a box
  in float32, so that a level may differ by 1 from that of the whole image.

  Args:
    image: The image, [h,w,3] u8.
    sides: The width and the height of the whole image when it is scaled.
    size: The height and width of the result, in pixels.
  """
  parts, low, high = [], [], []
  for length, scaled in zip(image.shape[1::-1], sides, strict=True):
    first = (scaled - size) // 2
    edges = first * length / scaled, (first + size) * length / scaled
    begin = max(0, math.floor(edges[0]) - 2)  # more than the filter reaches
    end = min(length, math.ceil(edges[1]) + 2)
    parts.append(slice(begin, end))
    low.append(edges[0] - begin)
    high.append(edges[1] - begin)
  cut = np.ascontiguousarray(image[parts[1], parts[0]])
  middle = Image.fromarray(cut).resize(
    (size, size), Image.Resampling.BILINEAR, box=(*low, *high)
  )
  return np.asarray(middle)


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
  return _resized(image, size, random_box(height, width, rng, scale))


def decoded_crop(
  content: bytes, where: str, size: int, rng: Any, scale: tuple[float, float]
) -> np.ndarray:
  """Returns a random crop of an encoded image, resized to [size,size,3] u8.

  It is the crop of `random_resized_crop`. A JPEG is decoded at 1/2, 1/4 or 1/8
  of its size where the crop still has `size` pixels on each side, so that the
  pixels differ a little.

  Args:
    content: The content of the file.
    where: The path or name of the image, for the error message.
    size: The height and width of the result, in pixels.
    rng: A NumPy generator.
    scale: The least and the greatest fraction of the area.

  Raises:
    UsageError: `decode` refuses the content.
  """
  sides = _sides_of_jpeg(content)
  if sides is None:
    return random_resized_crop(decode(content, where), size, rng, scale)
  box = random_box(*sides, rng, scale)
  shorter = min(box[2] - box[0], box[3] - box[1])
  factor = next(f for f in _FACTORS if f == 1 or shorter >= f * size)
  if factor == 1:
    return _resized(decode(content, where), size, box)
  height, width = (-(-side // factor) for side in sides)
  image = decode(
    content, where, min_factor=factor, min_height=height, min_width=width
  )
  if image.shape[:2] != (height, width):  # Pillow has read the whole image
    return _resized(image, size, box)
  # The last pixel of a row or column may stand for less than a whole one.
  left, top, right, bottom = (edge / factor for edge in box)
  inner = (left, top, min(right, width), min(bottom, height))
  return _resized(image, size, inner)


def random_box(
  height: int, width: int, rng: Any, scale: tuple[float, float]
) -> Box:
  """Returns the box of a random crop: left, top, right and bottom, in pixels.

  Args:
    height: The height of the image, in pixels.
    width: The width of the image, in pixels.
    rng: A NumPy generator.
    scale: The least and the greatest fraction of the area.
  """
  for _ in range(10):
    area = height * width * rng.uniform(*scale)
    ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
    w, h = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
    if 0 < w <= width and 0 < h <= height:
      left = rng.integers(0, width - w + 1)
      top = rng.integers(0, height - h + 1)
      return (int(left), int(top), int(left + w), int(top + h))
  side = min(height, width)
  left, top = (width - side) // 2, (height - side) // 2
  return (left, top, left + side, top + side)


def _resized(image: np.ndarray, size: int, box: Box) -> np.ndarray:
  """Returns a box of an image, resized to [size,size,3] u8."""
  bilinear = Image.Resampling.BILINEAR
  crop = Image.fromarray(image).resize((size, size), bilinear, box=box)
  return np.asarray(crop)


def squared(image: np.ndarray, size: int) -> np.ndarray:
  """Returns the whole image resized to [size,size,3] u8, whatever its sides.

  Args:
    image: The image, [h,w,3] u8.
    size: The height and width of the result, in pixels.
  """
  if image.shape[:2] == (size, size):
    return image
  bilinear = Image.Resampling.BILINEAR
  return np.asarray(Image.fromarray(image).resize((size, size), bilinear))
