"""What a data set is: facts that cost nothing, and images when asked."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Info(NamedTuple):
  """What is known of a data set before its images are read.

  Attributes:
    name: as in `config.data.name`.
    class_names: K names.
    image_size: height and width in pixels.
    num_train: training images.
    num_test: test images.
    mean: of each channel, of pixels scaled to 0..1.
    std: of each channel, likewise.
  """

  name: str
  class_names: tuple[str, ...]
  image_size: int
  num_train: int
  num_test: int
  mean: tuple[float, float, float]
  std: tuple[float, float, float]


class Split(NamedTuple):
  """Images [N,H,W,3] u8 and labels [N] i32, on the host."""

  image: np.ndarray
  label: np.ndarray


class Source(NamedTuple):
  """A data set: its facts, and how its splits ('train', 'test') are read."""

  info: Info
  load: Callable[[str], Split]


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
