"""Scenes of 48x48 pixels: scikit-learn's digits on parts of its photographs.

One to three real handwritten digits are pasted, upright and coloured, on a
darkened part of a photograph. Masks and boxes are made together. The scenes
show that data, networks, losses and metrics work; they say nothing about
natural images.

Source: our composition of `digits` (CC BY 4.0) and of the photographs china.jpg
(danielbuechele) and flower.jpg (vultilion; both CC BY 2.0) that scikit-learn
ships.
"""

import functools
import importlib.metadata
import pathlib
from typing import NamedTuple

import numpy as np

from kd_jax.data import decode, source
from kd_jax.data.sets import digits

SIDE = 48  # pixels
VOID = 255  # the value of masks that does not count
MOST = 4  # rows of boxes of a scene
COUNTS = {'train': 3000, 'test': 300}
# The first column of the photographs, and the column behind the last.
_COLUMNS = {'train': (0, 448), 'test': (480, 640)}
_TRIES = 30  # to place a digit
_MOST_OVERLAP = 0.3  # between the boxes of two digits of a scene
_RIM, _INK = 0.25, 0.5  # opacities from which pixels are covered, and ink
_SEEN = 0.6  # of the ink, below which an object is difficult
# The mean and standard deviation of the training split's pixels.
_MEAN = (0.2107, 0.2076, 0.1906)
_STD = (0.2001, 0.1866, 0.1934)

# The facts by the name of the task.
INFOS = {
  task: source.Info(
    name=f'scenes_{task}',
    class_names=(*background, *digits.INFO.class_names),
    image_size=SIDE,
    num_train=COUNTS['train'],
    num_test=COUNTS['test'],
    mean=_MEAN,
    std=_STD,
    task=task,
  )
  for task, background in (('detection', ()), ('segmentation', ('background',)))
}


def open_source(task: str) -> source.Source:
  """Returns the scenes with the targets of a task.

  Args:
    task: 'segmentation' or 'detection'.
  """

  def split(name: str) -> source.Arrays:
    scenes = read(name)
    if task == 'segmentation':
      return source.Arrays(scenes.image, scenes.mask)
    others = {'boxes': scenes.boxes, 'difficult': scenes.difficult}
    return source.Arrays(scenes.image, scenes.label, others)

  return source.Source(INFOS[task], split)


class Scenes(NamedTuple):
  """Scenes with what is to be found in them.

  Attributes:
    image: The images, [N,48,48,3] u8.
    mask: The classes of pixels, [N,48,48] u8: 0 is the background, 1 to 10 are
      the digits, 255 is a digit's soft rim, which does not count.
    boxes: The boxes of ink in corner form, in fractions of the side,
      [N,4,4] f32; rows of zeros pad.
    label: The digits, [N,4] i32; -1 pads.
    difficult: Whether a later digit covers more than two fifths of the ink,
      [N,4] bool.
  """

  image: np.ndarray
  mask: np.ndarray
  boxes: np.ndarray
  label: np.ndarray
  difficult: np.ndarray


class _Digit(NamedTuple):
  """A digit on its scene, in pixels."""

  label: int
  y: int
  x: int
  alpha: np.ndarray  # opacities, [s,s]

  @property
  def box(self) -> tuple[int, int, int, int]:
    """The tight box (x1, y1, x2, y2) of the ink."""
    rows, columns = np.nonzero(self.alpha >= _INK)
    return (
      self.x + int(columns.min()),
      self.y + int(rows.min()),
      self.x + int(columns.max()) + 1,
      self.y + int(rows.max()) + 1,
    )

  @property
  def place(self) -> tuple[slice, slice]:
    """The rows and columns of the scene."""
    size = len(self.alpha)
    return slice(self.y, self.y + size), slice(self.x, self.x + size)


@functools.cache
def read(split: str) -> Scenes:
  """Returns the split 'train' of 3,000 scenes, or 'test' of 300.

  Scene k of a split is the same whatever the others are. No digit and no column
  of a photograph is in both splits.
  """
  return generate(split, COUNTS[split])


def generate(split: str, count: int) -> Scenes:
  """Returns the first scenes of a split.

  Args:
    split: 'train' or 'test'.
    count: The number of scenes, N; there may be any number.
  """
  part = digits.read(split)
  glyphs = part.image[..., 0] / 255
  seed = list(COUNTS).index(split)
  scenes = []
  for k in range(count):
    rng = np.random.Generator(
      np.random.Philox(np.random.SeedSequence((seed, k)))
    )
    canvas = _background(rng, *_COLUMNS[split])
    scenes.append(_scene(rng, canvas, glyphs, part.labels))
  return Scenes(*(np.stack(parts) for parts in zip(*scenes, strict=True)))


def _background(rng: np.random.Generator, left: int, right: int) -> np.ndarray:
  """Returns a darkened part of a photograph, [48,48,3] f64."""
  photograph = photographs()[rng.integers(2)]
  y = rng.integers(len(photograph) - SIDE + 1)
  x = rng.integers(left, right - SIDE + 1)
  part = photograph[y : y + SIDE, x : x + SIDE].astype(np.float64)
  if rng.integers(2):
    part = part[:, ::-1]
  return part * rng.uniform(0.2, 0.5)


@functools.cache
def photographs() -> tuple[np.ndarray, np.ndarray]:
  """Returns scikit-learn's photographs, [427,640,3] u8 each."""
  files = importlib.metadata.distribution('scikit-learn')
  china, flower = (
    decode.read(
      pathlib.Path(
        str(files.locate_file(f'sklearn/datasets/images/{name}.jpg'))
      )
    )
    for name in ('china', 'flower')
  )
  return china, flower


def _scene(
  rng: np.random.Generator,
  canvas: np.ndarray,
  glyphs: np.ndarray,
  labels: np.ndarray,
) -> Scenes:
  """Returns a scene, without the axis N.

  Args:
    rng: The generator of its numbers.
    canvas: The background, [48,48,3] f64.
    glyphs: The opacities of all digits, [D,8,8] f64.
    labels: The digits, [D] i32.
  """
  mask = np.zeros((SIDE, SIDE), np.uint8)
  # The row of the digit that a pixel is of; -1 is none.
  owner = np.full((SIDE, SIDE), -1)
  placed: list[_Digit] = []
  for _ in range(rng.integers(1, 4)):
    digit = _placed(rng, glyphs, labels, placed)
    if digit is None:
      continue
    alpha = digit.alpha[..., None]
    colour = rng.integers(160, 256, size=3)
    canvas[digit.place] += alpha * (colour - canvas[digit.place])
    rim, ink = digit.alpha >= _RIM, digit.alpha >= _INK
    for pixels, value in ((rim, VOID), (ink, digit.label + 1)):
      mask[digit.place][pixels] = value
    owner[digit.place][rim] = -1
    owner[digit.place][ink] = len(placed)
    placed.append(digit)
  rows = Scenes(
    np.round(canvas.clip(0, 255)).astype(np.uint8),
    mask,
    np.zeros((MOST, 4), np.float32),
    np.full(MOST, -1, np.int32),
    np.zeros(MOST, bool),
  )
  for row, digit in enumerate(placed):
    rows.boxes[row] = np.array(digit.box) / SIDE
    rows.label[row] = digit.label
    seen = np.count_nonzero(owner == row)
    rows.difficult[row] = seen < _SEEN * np.count_nonzero(digit.alpha >= _INK)
  return rows


def _placed(
  rng: np.random.Generator,
  glyphs: np.ndarray,
  labels: np.ndarray,
  earlier: list[_Digit],
) -> _Digit | None:
  """Returns a digit that overlaps no earlier one by much, or None."""
  for _ in range(_TRIES):
    j = rng.integers(len(glyphs))
    size = int(rng.integers(14, 25))
    y, x = rng.integers(SIDE - size + 1, size=2)
    alpha = _enlarged(glyphs[j], size)
    digit = _Digit(int(labels[j]), int(y), int(x), alpha)
    box = digit.box
    if all(_iou(box, other.box) <= _MOST_OVERLAP for other in earlier):
      return digit
  return None


def _enlarged(glyph: np.ndarray, size: int) -> np.ndarray:
  """Returns opacities [8,8] enlarged bilinearly to [size,size] f64.

  It is written out, as the last bits of a product of matrices depend on the
  machine.
  """
  position = ((np.arange(size) + 0.5) * 8 / size - 0.5).clip(0, 7)
  first = np.floor(position).astype(int)
  last = np.minimum(first + 1, 7)
  part = position - first
  rows = glyph[first] * (1 - part)[:, None] + glyph[last] * part[:, None]
  return rows[:, first] * (1 - part) + rows[:, last] * part


def _iou(a: tuple[int, ...], b: tuple[int, ...]) -> float:
  """Returns the intersection over the union of two boxes of pixels."""
  height = min(a[3], b[3]) - max(a[1], b[1])
  width = min(a[2], b[2]) - max(a[0], b[0])
  both = max(height, 0) * max(width, 0)
  areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
  return both / (sum(areas) - both)
