"""A split that lives on the device as uint8 and is augmented there.

A batch is a pure function of (seed, step): its images are the next ones of the
epoch's permutation, which numpy makes from (seed, epoch); crops and flips come
from the step's key. Only indices travel to the device.

An epoch has floor(N/B) steps and a new permutation each: the N mod B images
left over differ from epoch to epoch. (PyTorch's loaders in RepDistiller train
on them as one small batch more; that is not reproduced.)
"""

from collections.abc import Iterator
import functools
from typing import Any

import jax
from jax.sharding import Mesh
import numpy as np

from kd_jax import sharding
from kd_jax.data import augment, source
from kd_jax.features import Batch


class Resident:
  """A split on the device, read in order: what evaluation needs.

  Attributes:
    arrays: 'image' [M,H,W,3] u8 and 'label' [M] i32, on every device.
    size: M.
  """

  def __init__(self, split: source.Split, info: source.Info, mesh: Mesh):
    """Moves the split to the devices of the mesh."""
    self.size = len(split.label)
    self._info = info
    self.arrays: dict[str, jax.Array] = sharding.put(
      {'image': split.image, 'label': split.label}, sharding.replicated(mesh)
    )

  def eval_feeds(self, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
    """Every image once, in order: 'index' [B] i32 and 'mask' [B] f32.

    The last batch repeats image 0 under mask 0 until it is full.
    """
    for start in range(0, self.size, batch_size):
      index = np.arange(start, start + batch_size, dtype=np.int32)
      real = index < self.size
      yield {
        'index': np.where(real, index, 0).astype(np.int32),
        'mask': real.astype(np.float32),
      }

  def eval_batch(
    self, arrays: dict[str, Any], feed: dict[str, jax.Array]
  ) -> Batch:
    """The batch without augmentation: 'image', 'label', 'index', 'mask'."""
    return self._batch(arrays, arrays['image'][feed['index']], feed)

  def _batch(self, arrays, images, feed) -> Batch:
    mean, std = self._info.mean, self._info.std
    label = arrays['label'][feed['index']]
    image = augment.normalise(images, mean, std)
    return {'image': image, 'label': label, **feed}


class Training(Resident):
  """A split on the device, shuffled and augmented.

  Attributes:
    steps_per_epoch: floor(M/B).
  """

  def __init__(
    self,
    split: source.Split,
    info: source.Info,
    mesh: Mesh,
    *,
    batch_size: int,
    seed: int,
    crop_flip: augment.CropFlip,
  ):
    """Moves the split to the devices of the mesh."""
    super().__init__(split, info, mesh)
    self.steps_per_epoch = self.size // batch_size
    self._batch_size, self._seed = batch_size, seed
    self._crop_flip = crop_flip
    self._order = functools.lru_cache(maxsize=2)(self._permutation)

  def _permutation(self, epoch: int) -> np.ndarray:
    bits = np.random.Philox(np.random.SeedSequence((self._seed, epoch)))
    return np.random.Generator(bits).permutation(self.size).astype(np.int32)

  def feed(self, step: int) -> dict[str, np.ndarray]:
    """What the host gives to step `step`: 'index' [B] i32."""
    epoch, within = divmod(step, self.steps_per_epoch)
    start = within * self._batch_size
    return {'index': self._order(epoch)[start : start + self._batch_size]}

  def batch(
    self, arrays: dict[str, Any], feed: dict[str, jax.Array], key: jax.Array
  ) -> Batch:
    """The augmented batch, inside jit: 'image', 'label', 'index'."""
    images = augment.crop_flip(
      arrays['image'], feed['index'], key, self._crop_flip
    )
    return self._batch(arrays, images, feed)
