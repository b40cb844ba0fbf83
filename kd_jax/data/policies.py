"""Policies: which operations an image gets, and how strong.

Source: Cubuk et al., "AutoAugment", CVPR 2019 (the tables of its appendix);
Cubuk et al., "RandAugment", CVPR Workshops 2020; Mueller and Hutter,
"TrivialAugment", ICCV 2021 (its wide space). Operations, magnitudes and
probabilities are those of torchvision 0.28 (`transforms/autoaugment.py`) with
its defaults, where it differs from the papers' code: black and not grey outside
the image, and RandAugment's 14 operations with signs.
"""

from typing import Any

import numpy as np
from PIL import Image

from kd_jax.data import operations

NAMES = (
  'randaugment', 'trivialaugment', 'autoaugment_cifar10',
  'autoaugment_imagenet',
)  # fmt: skip
LEVELS = 31  # magnitudes of RandAugment and TrivialAugment
_AUTO_LEVELS = 10  # of AutoAugment

# The greatest magnitude, which gets a random sign; 'side' is a share of it.
_SIGNED = {
  'ShearX': 0.3, 'ShearY': 0.3, 'TranslateX': 150 / 331,
  'TranslateY': 150 / 331, 'Rotate': 30.0, 'Brightness': 0.9, 'Color': 0.9,
  'Contrast': 0.9, 'Sharpness': 0.9,
}  # fmt: skip
_WIDE = {
  'ShearX': 0.99, 'ShearY': 0.99, 'TranslateX': 32.0, 'TranslateY': 32.0,
  'Rotate': 135.0, 'Brightness': 0.99, 'Color': 0.99, 'Contrast': 0.99,
  'Sharpness': 0.99,
}  # fmt: skip
_RANDOM = (
  'Identity', *_SIGNED, 'Posterize', 'Solarize', 'AutoContrast', 'Equalize',
)  # fmt: skip

# Two operations a line: name, probability, and level where it has one.
_CIFAR10 = """
  Invert 0.1, Contrast 0.2 6
  Rotate 0.7 2, TranslateX 0.3 9
  Sharpness 0.8 1, Sharpness 0.9 3
  ShearY 0.5 8, TranslateY 0.7 9
  AutoContrast 0.5, Equalize 0.9
  ShearY 0.2 7, Posterize 0.3 7
  Color 0.4 3, Brightness 0.6 7
  Sharpness 0.3 9, Brightness 0.7 9
  Equalize 0.6, Equalize 0.5
  Contrast 0.6 7, Sharpness 0.6 5
  Color 0.7 7, TranslateX 0.5 8
  Equalize 0.3, AutoContrast 0.4
  TranslateY 0.4 3, Sharpness 0.2 6
  Brightness 0.9 6, Color 0.2 8
  Solarize 0.5 2, Invert 0.0
  Equalize 0.2, AutoContrast 0.6
  Equalize 0.2, Equalize 0.6
  Color 0.9 9, Equalize 0.6
  AutoContrast 0.8, Solarize 0.2 8
  Brightness 0.1 3, Color 0.7 0
  Solarize 0.4 5, AutoContrast 0.9
  TranslateY 0.9 9, TranslateY 0.7 9
  AutoContrast 0.9, Solarize 0.8 3
  Equalize 0.8, Invert 0.1
  TranslateY 0.7 9, AutoContrast 0.9
"""
_IMAGENET = """
  Posterize 0.4 8, Rotate 0.6 9
  Solarize 0.6 5, AutoContrast 0.6
  Equalize 0.8, Equalize 0.6
  Posterize 0.6 7, Posterize 0.6 6
  Equalize 0.4, Solarize 0.2 4
  Equalize 0.4, Rotate 0.8 8
  Solarize 0.6 3, Equalize 0.6
  Posterize 0.8 5, Equalize 1.0
  Rotate 0.2 3, Solarize 0.6 8
  Equalize 0.6, Posterize 0.4 6
  Rotate 0.8 8, Color 0.4 0
  Rotate 0.4 9, Equalize 0.6
  Equalize 0.0, Equalize 0.8
  Invert 0.6, Equalize 1.0
  Color 0.6 4, Contrast 1.0 8
  Rotate 0.8 8, Color 1.0 2
  Color 0.8 8, Solarize 0.8 7
  Sharpness 0.4 7, Invert 0.6
  ShearX 0.6 5, Equalize 1.0
  Color 0.4 0, Equalize 0.6
  Equalize 0.4, Solarize 0.2 4
  Solarize 0.6 5, AutoContrast 0.6
  Invert 0.6, Equalize 1.0
  Color 0.6 4, Contrast 1.0 8
  Equalize 0.8, Equalize 0.6
"""


# Two of (operation, probability, level or None).
_Pair = tuple[tuple[str, float, int | None], ...]


def _parsed(table: str) -> tuple[_Pair, ...]:
  def one(text: str) -> tuple[str, float, int | None]:
    name, probability, *level = text.split()
    return name, float(probability), int(level[0]) if level else None

  return tuple(
    tuple(one(text) for text in line.split(','))
    for line in table.strip().splitlines()
  )


TABLES = {
  'autoaugment_cifar10': _parsed(_CIFAR10),
  'autoaugment_imagenet': _parsed(_IMAGENET),
}


def magnitude(
  name: str, level: int, size: int, levels: int, *, wide: bool = False
) -> float:
  """Returns the magnitude of an operation, without a sign.

  Args:
    name: The operation.
    level: From 0 to `levels` - 1.
    size: The image's height and width, in pixels.
    levels: The number of levels.
    wide: Whether it is that of TrivialAugment.
  """
  if name == 'Solarize':  # the threshold, above which levels are inverted
    return float(np.float32(np.linspace(255, 0, levels)[level]))
  if name == 'Posterize':  # the bits that are kept
    return 8 - round(level / ((levels - 1) / (6 if wide else 4)))
  most = (_WIDE if wide else _SIGNED).get(name, 0.0)
  if name.startswith('Translate') and not wide:
    most *= size
  return float(np.float32(np.linspace(0, most, levels)[level]))


def chosen(
  rng: np.random.Generator, policy: str, size: int, ops: int, level: int
) -> list[tuple[str, float]]:
  """Returns the operations that an image gets, with signed magnitudes.

  Args:
    rng: The generator of all random numbers.
    policy: One of `NAMES`.
    size: The image's height and width, in pixels.
    ops: The number of operations of RandAugment.
    level: The level of RandAugment, from 0 to 30.
  """
  wide = policy == 'trivialaugment'
  levels, drawn = LEVELS, []
  if policy in TABLES:
    levels, table = _AUTO_LEVELS, TABLES[policy]
    pair = table[rng.integers(len(table))]
    drawn = [
      (name, at or 0)
      for (name, probability, at), draw in zip(pair, rng.random(2), strict=True)
      if draw < probability
    ]
  elif wide:
    drawn = [(_one(rng, _RANDOM), int(rng.integers(LEVELS)))]
  else:
    drawn = [(_one(rng, _RANDOM), level) for _ in range(ops)]
  return [
    (name, _sign(rng, name) * magnitude(name, at, size, levels, wide=wide))
    for name, at in drawn
  ]


def _one(rng: np.random.Generator, names: tuple[str, ...]) -> str:
  return names[rng.integers(len(names))]


def _sign(rng: np.random.Generator, name: str) -> int:
  return 1 - 2 * int(rng.integers(2)) if name in _SIGNED else 1


def apply(
  rng: np.random.Generator, image: Image.Image, policy: str, *how: Any
) -> Image.Image:
  """Returns an image after the operations of a policy; see `chosen`."""
  for name, strength in chosen(rng, policy, image.size[0], *how):
    image = operations.BY_NAME[name](image, strength)
  return image
