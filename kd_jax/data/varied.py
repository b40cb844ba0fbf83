"""The augmentation of single images in the processes that decode them.

An image is cropped and mirrored, changed by a policy, jittered in its colours,
and a part of it is erased, in this order, as in torchvision's and timm's
recipes. There is one implementation, on the host: a split whose images are
varied is always streamed.
"""

import math
from typing import NamedTuple

import numpy as np
from PIL import Image

from kd_jax.data import augment, operations, policies

_AREA, _RATIO = (0.02, 0.33), (0.3, 3.3)  # of what is erased


class Varied(NamedTuple):
  """How an image is varied.

  Attributes:
    crop_flip: The crop and the mirroring.
    policy: One of `policies.NAMES`, or ''.
    ops: The number of operations of RandAugment.
    level: The level of RandAugment, from 0 to 30.
    jitter: How much brightness, contrast, saturation and hue vary; () is none.
    erasing: The probability that a rectangle is erased.
    fill: What an erased pixel becomes: the data's mean, of levels in 0..1.
  """

  crop_flip: augment.CropFlip
  policy: str = ''
  ops: int = 2
  level: int = 9
  jitter: tuple[float, ...] = ()
  erasing: float = 0.0
  fill: tuple[float, ...] = (0.0, 0.0, 0.0)


def vary(
  rng: np.random.Generator, image: np.ndarray, how: Varied
) -> np.ndarray:
  """Returns an augmented image, [size,size,3] u8.

  Args:
    rng: The generator of all random numbers.
    image: The image, [size,size,3] u8.
    how: The augmentation.
  """
  image = cropped(rng, image, how.crop_flip)
  if how.policy or how.jitter:
    changed = Image.fromarray(image)
    if how.policy:
      changed = policies.apply(rng, changed, how.policy, how.ops, how.level)
    if how.jitter:
      changed = jittered(rng, changed, how.jitter)
    image = np.asarray(changed)
  if rng.random() < how.erasing:
    image = erased(image, erased_part(rng, image.shape[:2]), how.fill)
  return image


def cropped(
  rng: np.random.Generator, image: np.ndarray, how: augment.CropFlip
) -> np.ndarray:
  """Returns a random crop of the padded image, mirrored at random.

  Args:
    rng: The generator of all random numbers.
    image: The image, [H,W,3] u8.
    how: The augmentation.
  """
  height, width = image.shape[:2]
  if how.padding:
    y, x = rng.integers(0, 2 * how.padding + 1, 2)
    around = ((how.padding, how.padding),) * 2 + ((0, 0),)
    if how.mode == 'reflect':
      padded = np.pad(image, around, 'reflect')
    else:
      padded = np.pad(image, around)
    image = padded[y : y + height, x : x + width]
  if how.flip and rng.random() < 0.5:
    image = image[:, ::-1]
  return np.ascontiguousarray(image)


def jittered(
  rng: np.random.Generator, image: Image.Image, jitter: tuple[float, ...]
) -> Image.Image:
  """Returns an image with random brightness, contrast, saturation and hue.

  The factors are uniform, and the order of the four is random.

  Args:
    rng: The generator of all random numbers.
    image: The image.
    jitter: How far the factors of the first three may be from 1, and how far a
      hue turns, as a share of the circle, up to 1/2.

  Source: torchvision's ColorJitter.
  """
  blends = (operations.brightness, operations.contrast, operations.saturation)
  for index in rng.permutation(4):
    most = jitter[index]
    if not most:
      continue
    if index == 3:
      image = operations.hue(image, rng.uniform(-most, most))
    else:
      factor = rng.uniform(max(0.0, 1 - most), 1 + most)
      image = blends[index](image, factor)
  return image


def erased_part(
  rng: np.random.Generator, sides: tuple[int, ...]
) -> tuple[slice, slice]:
  """Returns the rows and columns of a random rectangle.

  Its area is a uniform part of the image's, from 0.02 to 0.33, and its aspect
  log-uniform in 0.3..3.3. After ten that do not fit it is empty.

  Args:
    rng: The generator of all random numbers.
    sides: The image's height and width, in pixels.

  Source: Zhong et al., "Random Erasing Data Augmentation", AAAI 2020;
  torchvision's RandomErasing, whose ratio is 0.3..3.3.
  """
  low, high = map(math.log, _RATIO)
  for _ in range(10):
    area = math.prod(sides) * rng.uniform(*_AREA)
    aspect = math.exp(rng.uniform(low, high))
    height, width = (
      round(math.sqrt(area * aspect)),
      round(math.sqrt(area / aspect)),
    )
    if height < sides[0] and width < sides[1]:
      top = int(rng.integers(sides[0] - height + 1))
      left = int(rng.integers(sides[1] - width + 1))
      return slice(top, top + height), slice(left, left + width)
  return slice(0, 0), slice(0, 0)


def erased(
  image: np.ndarray, part: tuple[slice, slice], fill: tuple[float, ...]
) -> np.ndarray:
  """Returns an image with a part of one colour, rounded to 8 bits.

  Args:
    image: The image, [H,W,3] u8.
    part: The rows and columns.
    fill: The colour, of levels in 0..1.
  """
  result = image.copy()
  result[part] = np.round(255 * np.asarray(fill)).astype(np.uint8)
  return result
