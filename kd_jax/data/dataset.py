"""What the loop asks of a split: feeds from the host, batches on the device.

A batch is a pure function of (seed, step): its images are the next ones of the
epoch's permutation, which numpy makes from (seed, epoch); crops and flips come
from the step's key, inside jit. `Training` and `Streamed` give the same batches
bit for bit.

An epoch has floor(N/B) steps and a new permutation each: the N mod B images
left over differ from epoch to epoch. (PyTorch's loaders in RepDistiller train
on them as one small batch more; that is not reproduced.)
"""

import functools
from typing import Any, Protocol

import jax
import numpy as np

from kd_jax.data import augment, source
from kd_jax.features import Batch

# Arrays by name, a batch or one item of it.
Feed = dict[str, Any]


class Feeds(Protocol):
  """An iterator over feeds that frees what it holds when it is closed."""

  def __iter__(self) -> 'Feeds':
    """Itself."""
    ...

  def __next__(self) -> Feed:
    """The next one."""
    ...

  def close(self) -> None:
    """Ends it, with its threads and processes."""
    ...


class EvalSet(Protocol):
  """A split read in order.

  Attributes:
    arrays: what lives on the devices.
    size: images.
  """

  arrays: dict[str, jax.Array]
  size: int

  def eval_feeds(self, batch_size: int) -> Feeds:
    """Every image once, with 'mask' [B] f32; the last batch is padded.

    Of each batch a process gets its `sharding.rows`.
    """
    ...

  def eval_batch(self, arrays: dict[str, Any], feed: Any) -> Batch:
    """The batch, inside jit: 'image', 'label', 'index', 'mask'."""
    ...


class TrainSet(Protocol):
  """A split in the order of training.

  Attributes:
    arrays: what lives on the devices.
  """

  arrays: dict[str, jax.Array]

  def feeds(self, step: int) -> Feeds:
    """What the host gives to `step` and every step after it.

    Of each batch a process gets its `sharding.rows`.
    """
    ...

  def batch(self, arrays: dict[str, Any], feed: Any, key: jax.Array) -> Batch:
    """The augmented batch, inside jit: 'image', 'label', 'index'."""
    ...


class Order:
  """Which images each step shows."""

  def __init__(self, size: int, batch_size: int, seed: int):
    """Orders `size` images in batches.

    Args:
      size: images, at least batch_size.
      batch_size: B.
      seed: decides the permutations.
    """
    self.size, self.batch_size, self.seed = size, batch_size, seed
    self.steps_per_epoch = size // batch_size
    self._epoch = functools.lru_cache(maxsize=2)(self._permutation)

  def _permutation(self, epoch: int) -> np.ndarray:
    bits = np.random.Philox(np.random.SeedSequence((self.seed, epoch)))
    return np.random.Generator(bits).permutation(self.size).astype(np.int32)

  def index(self, step: int) -> np.ndarray:
    """The images of a step, [B] i32."""
    epoch, within = divmod(step, self.steps_per_epoch)
    start = within * self.batch_size
    return self._epoch(epoch)[start : start + self.batch_size]


def masked(size: int, batch_size: int, rows: np.ndarray) -> Feeds:
  """'index' [R] i32 and 'mask' [R] f32 over every image, in order.

  The last batch repeats image 0 under mask 0 until it is full.

  Args:
    size: images.
    batch_size: B.
    rows: [R] i32, which of each batch are wanted.
  """
  for start in range(0, size, batch_size):
    index = start + rows
    real = index < size
    yield {
      'index': np.where(real, index, 0).astype(np.int32),
      'mask': real.astype(np.float32),
    }


def normalised(image: jax.Array, info: source.Info) -> jax.Array:
  """Images [N,H,W,3] u8 as networks see them, f32."""
  return augment.normalise(image, info.mean, info.std)
