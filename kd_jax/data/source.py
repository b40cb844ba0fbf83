"""A data set: facts that are cheap to read, and splits opened on demand."""

from collections.abc import Callable, Mapping
import dataclasses
import time
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from kd_jax import errors
from kd_jax.data import augment_boxes, augment_masks, decode
from kd_jax.runtime import screen


class Info(NamedTuple):
  """The facts of a data set that are known before its images are read.

  Attributes:
    name: The name, as `data.open_source` takes it.
    class_names: The names of the K classes.
    image_size: The height and width of the network's input, in pixels.
    num_train: The number of training images.
    num_test: The number of test images.
    mean: The mean of each channel, of pixels scaled to 0..1.
    std: The standard deviation of each channel, of pixels scaled to 0..1.
    num_val: The number of images in the split 'val', which is held out of
      training or is the data set's own.
    fingerprint: A digest of the images and labels, which distinguishes
      different contents under the same name; '' for data that never change.
    task: The name of the task; see `tasks.find`.
    place: The absolute path of the folder or the file, or of the folder of
      prepared data sets; '' elsewhere. It is no part of the identity.
  """

  name: str
  class_names: tuple[str, ...]
  image_size: int
  num_train: int
  num_test: int
  mean: tuple[float, ...]
  std: tuple[float, ...]
  num_val: int = 0
  fingerprint: str = ''
  task: str = 'classification'
  place: str = ''

  def identity(self) -> dict[str, Any]:
    """Returns the fields by name by which runs and caches compare data sets.

    The place is not one of them. An empty fingerprint is left out, so that the
    result equals that of run folders and caches written before fingerprints
    existed.
    """
    facts = self._asdict()
    del facts['place']
    if not self.fingerprint:
      del facts['fingerprint']
    if self.task == 'classification':
      del facts['task']
    return facts


# What an image's network is to predict: a class index, or the arrays of a dense
# task by their key in a batch, such as a mask 'label' [H,W].
Target = int | dict[str, np.ndarray]


class Images(Protocol):
  """The images of a split, which are read by index."""

  @property
  def labels(self) -> np.ndarray:
    """The labels: of whole images the class indices, [N] i32."""
    ...

  def __len__(self) -> int:
    """Returns the number of images, N."""
    ...

  def read(self, index: int) -> tuple[np.ndarray, Target]:
    """Returns the decoded image [h,w,3] u8 at an index, and its target."""
    ...


@runtime_checkable
class WithSides(Protocol):
  """Images whose sides are known before they are decoded."""

  def sides(self, index: int) -> tuple[int, int]:
    """Returns the height and width of an image, in pixels."""
    ...


@runtime_checkable
class Encoded(Protocol):
  """Images that are files, or would be."""

  def encoded(self, index: int) -> tuple[bytes, str, Target] | None:
    """Returns an image's content, its name for messages, and its target.

    None is of an image that has no content as of a file.
    """
    ...


def encoded(images: Images, index: int) -> tuple[bytes, str, Target] | None:
  """Returns the content of an image; see `Encoded`.

  Args:
    images: The split.
    index: The image's position.
  """
  return images.encoded(index) if isinstance(images, Encoded) else None


def sides(images: Images, index: int) -> tuple[int, int]:
  """Returns the height and width of an image of a split, in pixels.

  It is decoded where the split knows no other way.

  Args:
    images: The split.
    index: The image's position.
  """
  if isinstance(images, WithSides):
    return images.sides(index)
  height, width = images.read(index)[0].shape[:2]
  return height, width


@dataclasses.dataclass(frozen=True)
class Arrays:
  """A split in memory, whose images all have the same size.

  Attributes:
    image: The images, [N,H,W,3] u8.
    labels: What a batch has as 'label': the class indices, [N] i32, the masks,
      [N,H,W] u8, or the objects' classes, [N,M] i32.
    others: The other targets of a dense task, by their key in a batch.
  """

  image: np.ndarray
  labels: np.ndarray
  others: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

  @property
  def targets(self) -> dict[str, np.ndarray]:
    """All targets by their key in a batch, [N,...] each."""
    return {'label': self.labels, **self.others}

  def __len__(self) -> int:
    """Returns the number of images, N."""
    return len(self.labels)

  def read(self, index: int) -> tuple[np.ndarray, Target]:
    """Returns the image [H,W,3] u8 at an index, and its target."""
    if self.labels.ndim == 1:
      return self.image[index], int(self.labels[index])
    targets = {name: values[index] for name, values in self.targets.items()}
    return self.image[index], targets


@dataclasses.dataclass(frozen=True)
class Subset:
  """A subset of the images of a split.

  Attributes:
    whole: The split.
    chosen: The indices of the chosen images in the split, [N].
  """

  whole: Images
  chosen: np.ndarray

  @property
  def labels(self) -> np.ndarray:
    """The labels of the chosen images."""
    return self.whole.labels[self.chosen]

  def __len__(self) -> int:
    """Returns the number of images, N."""
    return len(self.chosen)

  def read(self, index: int) -> tuple[np.ndarray, Target]:
    """Returns the decoded image [h,w,3] u8 at an index, and its target."""
    return self.whole.read(int(self.chosen[index]))

  def sides(self, index: int) -> tuple[int, int]:
    """Returns the height and width of an image, in pixels."""
    return sides(self.whole, int(self.chosen[index]))

  def encoded(self, index: int) -> tuple[bytes, str, Target] | None:
    """Returns the content of an image; see `Encoded`."""
    return encoded(self.whole, int(self.chosen[index]))


class Source:
  """A data set, which opens and decodes every split once per process.

  Attributes:
    info: The facts of the data set.
    notes: What a user should know of how it is read, in lines.
  """

  def __init__(
    self,
    info: Info,
    opener: Callable[[str], Images],
    notes: tuple[str, ...] = (),
  ):
    """Creates the data set without opening a split.

    Args:
      info: The facts of the data set.
      opener: Returns the images of 'train', 'val' or 'test'.
      notes: What a user should know of how it is read, in lines: which part of
        the data is which split, and what is left out.
    """
    self.info = info
    self.notes = notes
    self._opener = opener
    self._splits: dict[str, Images] = {}
    self._arrays: dict[str, Arrays] = {}

  def split(self, name: str) -> Images:
    """Returns the images of 'train', of 'test', or of 'val' if it exists."""
    if name not in self._splits:
      self._splits[name] = self._opener(name)
    return self._splits[name]

  def arrays(
    self, name: str, say: Callable[[str], None] = screen.show
  ) -> Arrays:
    """Returns a whole split decoded, with every image fitted to `image_size`.

    Args:
      name: The name of the split.
      say: Called with a progress message every five seconds.
    """
    if name not in self._arrays:
      images, size = self.split(name), self.info.image_size
      pixels = np.empty((len(images), size, size, 3), np.uint8)
      targets: dict[str, np.ndarray] = {}
      last_report = time.monotonic()
      for i in range(len(images)):
        pixels[i], target = fitted(*images.read(i), size)
        for key, value in target.items():
          if not i:
            targets[key] = np.empty((len(images), *value.shape), value.dtype)
          targets[key][i] = value
        if time.monotonic() - last_report > 5:
          last_report = time.monotonic()
          say(f'decoding {self.info.name}: {i} of {len(images)} {name} images')
      self._arrays[name] = Arrays(pixels, targets.pop('label'), targets)
    return self._arrays[name]


def fitted(
  image: np.ndarray, target: Target, size: int
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
  """Returns an image at the size of the network's input, and its targets.

  Args:
    image: The decoded image, [h,w,3] u8.
    target: Its target. With a mask, 'label' [h,w] u8, the whole image is scaled
      to a square, and the mask to the nearest labels. With 'boxes', which are
      in fractions of the image, it is scaled without averaging pixels, as in
      training.
    size: The height and width of the network's input, in pixels.

  Returns:
    The image [size,size,3] u8, and the targets by their key in a batch; a class
    index is 'label' [] i32.
  """
  if not isinstance(target, dict):
    return decode.fit(image, size), {'label': np.array(target, np.int32)}
  if set(target) == {'label'} and target['label'].shape == image.shape[:2]:
    image, mask = augment_masks.resized(image, target['label'], size, size)
    return image, {'label': mask}
  if 'boxes' in target:
    return augment_boxes.whole(image, size), target
  if image.shape[:2] != (size, size):
    raise errors.UsageError(
      f'an image of {image.shape[1]}x{image.shape[0]} pixels has a mask of '
      f'other sides, which is not resized to {size}: give images of {size} '
      'pixels'
    )
  return image, target


def strata(labels: np.ndarray) -> np.ndarray:
  """Returns the classes [N] whose proportions a subset keeps.

  They are the labels of whole images; images of a dense task are one class.

  Args:
    labels: The labels of a split.
  """
  return labels if labels.ndim == 1 else np.zeros(len(labels), np.int32)


def stratified(
  labels: np.ndarray, size: int, seed: int, *, leave: int = 0
) -> np.ndarray:
  """Returns the indices of a random subset that keeps the class proportions.

  Where a class's share is no whole number it is rounded down, and the classes
  with the largest remainders get one more image. A class gets at least one
  image, and at most all but `leave`, where the size allows that of every class;
  the classes with the most images make up for it.

  Args:
    labels: The class indices, [N].
    size: The number of images in the subset.
    seed: The seed of the choice.
    leave: The images of each class that are not chosen.

  Returns:
    [size] indices in ascending order, the same ones for the same arguments.
  """
  rng = np.random.Generator(np.random.Philox(seed))
  classes, counts = np.unique(labels, return_counts=True)
  shares = counts * (size / len(labels))
  quotas = np.floor(shares).astype(int)
  by_remainder = np.argsort(-(shares - quotas), kind='stable')
  quotas[by_remainder[: size - quotas.sum()]] += 1
  least, most = np.ones_like(counts), counts - leave
  if least.sum() <= size <= most.sum() and (most >= least).all():
    quotas = quotas.clip(least, most)
    while (over := quotas.sum() - size) != 0:
      step = np.sign(over)
      free = quotas > least if over > 0 else quotas < most
      # Of the classes that can, the one whose share is missed the least.
      quotas[np.argmax(np.where(free, step * (quotas - shares), -np.inf))] -= (
        step
      )
  chosen = [
    rng.permutation(np.flatnonzero(labels == label))[:quota]
    for label, quota in zip(classes, quotas, strict=True)
  ]
  return np.sort(np.concatenate(chosen))


def check_labels(
  labels: np.ndarray, classes: int, where: str, cure: str
) -> None:
  """Raises UsageError if a label is no class index.

  Args:
    labels: The labels, [N] of any integer dtype.
    classes: The number of classes, K.
    where: The data set and the split, for the error message.
    cure: What the user can do, likewise.
  """
  labels = np.asarray(labels)
  wrong, counts = np.unique(
    labels[(labels < 0) | (labels >= classes)], return_counts=True
  )
  if not len(wrong):
    return
  shown = ', '.join(
    f'{label} ({count} times)'
    for label, count in zip(wrong[:5].tolist(), counts[:5], strict=True)
  )
  raise errors.UsageError(
    f'{where}: {counts.sum()} of {len(labels)} labels are no class from 0 to '
    f'{classes - 1}: {shown}{", ..." if len(wrong) > 5 else ""}; {cure}'
  )
