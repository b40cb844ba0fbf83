"""What a data set is: facts that cost nothing, and images when asked."""

from collections.abc import Callable
import dataclasses
import time
from typing import Any, NamedTuple, Protocol

import numpy as np

from kd_jax.data import decode


class Info(NamedTuple):
  """What is known of a data set before its images are read.

  Attributes:
    name: as in `config.data.name`.
    class_names: K names.
    image_size: height and width in pixels.
    num_train: training images.
    num_test: test images.
    num_val: images of split 'val', held out of training or the data set's own.
    fingerprint: tells contents under one name apart; '' where none is known.
    mean: of each channel, of pixels scaled to 0..1.
    std: of each channel, likewise.
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

  def identity(self) -> dict[str, Any]:
    """Everything, by field, as runs and caches compare it.

    An empty fingerprint is left out, as in what was written before there were
    fingerprints.
    """
    facts = self._asdict()
    if not self.fingerprint:
      del facts['fingerprint']
    return facts


class Images(Protocol):
  """A split of a data set, by index."""

  @property
  def labels(self) -> np.ndarray:
    """Class indices [N] i32."""
    ...

  def __len__(self) -> int:
    """N."""
    ...

  def read(self, index: int) -> tuple[np.ndarray, int]:
    """The decoded image [h,w,3] u8, and its label."""
    ...


@dataclasses.dataclass(frozen=True)
class Arrays:
  """A split in memory: `Images` of one size.

  Attributes:
    image: [N,H,W,3] u8.
    labels: [N] i32.
  """

  image: np.ndarray
  labels: np.ndarray

  def __len__(self) -> int:
    """N."""
    return len(self.labels)

  def read(self, index: int) -> tuple[np.ndarray, int]:
    """The image [H,W,3] u8, and its label."""
    return self.image[index], int(self.labels[index])


@dataclasses.dataclass(frozen=True)
class Subset:
  """Some of the images of a split.

  Attributes:
    whole: the split.
    chosen: indices into it.
  """

  whole: Images
  chosen: np.ndarray

  @property
  def labels(self) -> np.ndarray:
    """Class indices [N] i32."""
    return self.whole.labels[self.chosen]

  def __len__(self) -> int:
    """N."""
    return len(self.chosen)

  def read(self, index: int) -> tuple[np.ndarray, int]:
    """The decoded image [h,w,3] u8, and its label."""
    return self.whole.read(int(self.chosen[index]))


class Source:
  """A data set; each split is opened, and decoded, once in a process.

  Attributes:
    info: its facts.
  """

  def __init__(self, info: Info, opener: Callable[[str], Images]):
    """Opens nothing yet.

    Args:
      info: its facts.
      opener: gives the images of 'train', 'val' or 'test'.
    """
    self.info = info
    self._opener = opener
    self._splits: dict[str, Images] = {}
    self._arrays: dict[str, Arrays] = {}

  def split(self, name: str) -> Images:
    """The images of 'train', 'test', or 'val' where there is one."""
    if name not in self._splits:
      self._splits[name] = self._opener(name)
    return self._splits[name]

  def arrays(self, name: str, say: Callable[[str], None] = print) -> Arrays:
    """The whole split decoded, every image fitted to the image size.

    Args:
      name: of the split.
      say: tells of progress every five seconds.
    """
    if name not in self._arrays:
      images, size = self.split(name), self.info.image_size
      out = np.empty((len(images), size, size, 3), np.uint8)
      labels = np.empty(len(images), np.int32)
      said = time.monotonic()
      for i in range(len(images)):
        image, labels[i] = images.read(i)
        out[i] = decode.fit(image, size)
        if time.monotonic() - said > 5:
          said = time.monotonic()
          say(f'decoding {self.info.name}: {i} of {len(images)} {name} images')
      self._arrays[name] = Arrays(out, labels)
    return self._arrays[name]


def stratified(labels: np.ndarray, size: int, seed: int) -> np.ndarray:
  """Indices of `size` images with the class proportions of `labels` [N].

  The same images for the same arguments, in ascending order. Where size is no
  multiple, the classes with the largest remainders get one more.
  """
  rng = np.random.Generator(np.random.Philox(seed))
  names, counts = np.unique(labels, return_counts=True)
  exact = counts * (size / len(labels))
  take = np.floor(exact).astype(int)
  largest = np.argsort(-(exact - take), kind='stable')
  take[largest[: size - take.sum()]] += 1
  chosen = [
    rng.permutation(np.flatnonzero(labels == name))[:n]
    for name, n in zip(names, take, strict=True)
  ]
  return np.sort(np.concatenate(chosen))
