"""The interface of a split: feeds from the host, batches on the device.

A batch is a pure function of (seed, step). Its images are the next ones of the
epoch's permutation, which NumPy computes from (seed, epoch); crops and flips
come from the step's key, inside jit. `resident.Training` and `stream.Streamed`
yield the same batches bit for bit.

An epoch has floor(N/B) steps and a permutation of its own, so that the N mod B
images left out differ from epoch to epoch. (PyTorch's loaders in RepDistiller
train on them as an additional small batch; that is not reproduced.)
"""

import functools
from typing import Any, Protocol

import jax
import numpy as np

from kd_jax.data import augment, mixing, source
from kd_jax.features import PLAIN, Batch

# Arrays by name: a batch, or a single item of a batch.
Feed = dict[str, Any]


class Feeds(Protocol):
  """An iterator over feeds, which releases its resources when closed."""

  def __iter__(self) -> 'Feeds':
    """Returns the iterator itself."""
    ...

  def __next__(self) -> Feed:
    """Returns the next feed."""
    ...

  def close(self) -> None:
    """Ends the iteration and stops its threads and processes."""
    ...


class EvalSet(Protocol):
  """A split that is read in order.

  Attributes:
    arrays: The arrays that stay on the devices.
    size: The number of images.
  """

  arrays: dict[str, jax.Array]
  size: int

  def eval_feeds(self, batch_size: int) -> Feeds:
    """Returns feeds that hold every image once, the last one padded.

    A feed has 'mask' [B] f32, which is 0 for padding. A process receives its
    `sharding.rows` of every batch.

    Args:
      batch_size: B, over all processes.
    """
    ...

  def eval_batch(self, arrays: dict[str, Any], feed: Any) -> Batch:
    """Returns the batch of a feed; called inside jit.

    Args:
      arrays: The attribute `arrays`, as an argument of the jitted function.
      feed: A feed of `eval_feeds`.

    Returns:
      'image', 'label', 'index' and 'mask'; see `features.Batch`.
    """
    ...


class TrainSet(Protocol):
  """A split that is read in the shuffled order of training.

  Attributes:
    arrays: The arrays that stay on the devices.
  """

  arrays: dict[str, jax.Array]

  def feeds(self, step: int) -> Feeds:
    """Returns the feeds of `step` and of all steps after it.

    A process receives its `sharding.rows` of every batch.
    """
    ...

  def batch(self, arrays: dict[str, Any], feed: Any, key: jax.Array) -> Batch:
    """Returns the augmented batch of a feed; called inside jit.

    Args:
      arrays: The attribute `arrays`, as an argument of the jitted function.
      feed: A feed of `feeds`.
      key: The random key of the step.

    Returns:
      'image', 'label' and 'index', and what else `features.Batch` names.
    """
    ...


class Order:
  """The order of training, which maps a step to the images of its batch."""

  def __init__(self, size: int, batch_size: int, seed: int):
    """Creates the order.

    Args:
      size: The number of images, at least `batch_size`.
      batch_size: B.
      seed: The seed of the permutations.
    """
    self.size, self.batch_size, self.seed = size, batch_size, seed
    self.steps_per_epoch = size // batch_size
    self._epoch = functools.lru_cache(maxsize=2)(self._permutation)

  def _permutation(self, epoch: int) -> np.ndarray:
    bits = np.random.Philox(np.random.SeedSequence((self.seed, epoch)))
    return np.random.Generator(bits).permutation(self.size).astype(np.int32)

  def index(self, step: int) -> np.ndarray:
    """Returns the indices of a step's images, [B] i32."""
    epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
    start = step_in_epoch * self.batch_size
    return self._epoch(epoch)[start : start + self.batch_size]


def masked(size: int, batch_size: int, rows: np.ndarray) -> Feeds:
  """Yields the 'index' [R] i32 and 'mask' [R] f32 of all images, in order.

  The last batch is filled up with image 0, for which the mask is 0.

  Args:
    size: The number of images.
    batch_size: B.
    rows: The wanted positions within every batch, [R] i32.
  """
  for start in range(0, size, batch_size):
    index = start + rows
    real = index < size
    yield {
      'index': np.where(real, index, 0).astype(np.int32),
      'mask': real.astype(np.float32),
    }


def normalised(image: jax.Array, info: source.Info) -> jax.Array:
  """Returns images [N,H,W,3] in 0..255 normalised for a network, as f32."""
  return augment.normalise(image, info.mean, info.std)


def mixed(
  batch: Batch,
  images: jax.Array,
  key: jax.Array,
  how: mixing.Mixing | None,
  info: source.Info,
) -> Batch:
  """Returns a training batch whose images and labels are mixed.

  Args:
    batch: The batch before, with class indices.
    images: Its images before normalisation, [N,H,W,3] u8.
    key: The random key of the step, from which `augment.crop_flip` draws too.
    how: The mixing; None leaves the batch as it is.
    info: The facts of the data set.
  """
  if how is None or not how.softens:
    return batch
  # A crop takes the keys 0, 1 and 2.
  key = jax.random.fold_in(key, 3)
  image, label = mixing.mixed(images, batch['label'], key, how)
  plain = {PLAIN: batch['image']} if how.keeps_plain else {}
  return {**batch, **plain, 'image': normalised(image, info), 'label': label}
