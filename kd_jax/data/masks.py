"""Masks of a data set of the user's own: their sizes and their classes."""

import dataclasses

import numpy as np

from kd_jax import errors
from kd_jax.data import source

# The label of a pixel that counts nowhere.
VOID = 255


def checked(images: source.Images, info: source.Info, name: str) -> 'Checked':
  """Returns the images of a split whose masks are checked as they are read.

  Arrays in memory are checked at once, and of others the first image.

  Args:
    images: The split, whose targets are masks.
    info: The facts of its data set.
    name: The data set and the split, for error messages.

  Raises:
    UsageError: There are more classes than a mask can name, a mask has another
      size than its image, or a label is no class and not 255.
  """
  classes = len(info.class_names)
  if classes > VOID:
    raise errors.UsageError(
      f'{name}: {classes} classes, and masks name at most {VOID}, 0 to '
      f'{VOID - 1}, beside {VOID} for pixels that do not count: give fewer'
    )
  split = Checked(images, classes, name)
  if isinstance(images, source.Arrays):
    check(images.labels, images.image, classes, name)
  elif len(images):
    split.read(0)
  return split


def check(mask: np.ndarray, image: np.ndarray, classes: int, name: str) -> None:
  """Checks the mask of an image, or those of several.

  Args:
    mask: The classes of the pixels, [...,H,W] of any integer dtype.
    image: The image, [...,H,W,3].
    classes: The number of classes, K.
    name: Where it is, for the message.

  Raises:
    UsageError: The mask has another size than the image, or a label is no class
      and not 255.
  """
  mask = np.asarray(mask)
  if mask.shape != image.shape[:-1] or mask.dtype.kind not in 'iu':
    raise errors.UsageError(
      f'{name}: a mask {list(mask.shape)} of {mask.dtype} for an image '
      f'{list(image.shape)}: give a whole number for each of its pixels'
    )
  source.check_labels(
    mask[mask != VOID],
    classes,
    name,
    f'correct them, or give {VOID} to pixels that do not count',
  )


@dataclasses.dataclass(frozen=True)
class Checked:
  """A split whose masks are checked as they are read; see `checked`.

  Attributes:
    images: The split.
    classes: The number of classes, K.
    name: The data set and the split, for error messages.
  """

  images: source.Images
  classes: int
  name: str

  @property
  def labels(self) -> np.ndarray:
    """The labels of the split; see `source.Images`."""
    return self.images.labels

  def __len__(self) -> int:
    """Returns the number of images, N."""
    return len(self.images)

  def sides(self, index: int) -> tuple[int, int]:
    """Returns the height and width of an image, in pixels."""
    return source.sides(self.images, index)

  def read(self, index: int) -> tuple[np.ndarray, source.Target]:
    """Returns the image [h,w,3] u8 at an index, and its targets.

    Raises:
      UsageError: There is no mask, or it does not fit; see `check`.
    """
    image, target = self.images.read(index)
    where = f'{self.name}, image {index}'
    if not isinstance(target, dict) or 'label' not in target:
      raise errors.UsageError(
        f"{where}: no mask: `read` must return the image and {{'label': mask}}"
      )
    check(target['label'], image, self.classes, where)
    return image, target
