"""A split that lives on the device as uint8; only indices travel there."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from kd_jax.data import augment, dataset, source
from kd_jax.features import Batch
from kd_jax.runtime import sharding


class Resident:
  """A split on the device, read in order; a `dataset.EvalSet`.

  Attributes:
    arrays: 'image' [M,H*W*3] u8 and 'label' [M] i32, on every device. A TPU
      would copy images of four dimensions into such rows at every dispatch.
    size: M.
  """

  def __init__(self, split: source.Arrays, info: source.Info, mesh: Mesh):
    """Moves the split to the devices of the mesh."""
    self.size = len(split)
    self._info, self._mesh = info, mesh
    self._shape = split.image.shape[1:]
    rows = split.image.reshape(self.size, -1)
    self.arrays: dict[str, jax.Array] = sharding.put(
      {'image': rows, 'label': split.labels}, sharding.replicated(mesh)
    )

  def eval_feeds(self, batch_size: int) -> dataset.Feeds:
    """See `dataset.EvalSet`: 'index' and 'mask'."""
    rows = sharding.rows(self._mesh, batch_size)
    return dataset.masked(self.size, batch_size, rows)

  def eval_batch(self, arrays: dict[str, Any], feed: Any) -> Batch:
    """See `dataset.EvalSet`."""
    return self._batch(arrays, self._taken(arrays, feed), feed)

  def _taken(self, arrays: dict[str, Any], feed: Any) -> jax.Array:
    """The images of a feed, [B,H,W,3] u8."""
    return arrays['image'][feed['index']].reshape(-1, *self._shape)

  def _batch(self, arrays, images, feed) -> Batch:
    image = dataset.normalised(images, self._info)
    return {'image': image, 'label': arrays['label'][feed['index']], **feed}


class Training(Resident):
  """A split on the device, shuffled and augmented; a `dataset.TrainSet`.

  `arrays` may have a teacher's logits too, under `features.known`: [M,1,K] f32,
  or [M,2,K] with those of the mirrored images.
  """

  def __init__(
    self,
    split: source.Arrays,
    info: source.Info,
    mesh: Mesh,
    *,
    batch_size: int,
    seed: int,
    crop_flip: augment.CropFlip,
  ):
    """Moves the split to the devices of the mesh."""
    super().__init__(split, info, mesh)
    self._order = dataset.Order(self.size, batch_size, seed)
    self._rows = sharding.rows(mesh, batch_size)
    self._crop_flip = crop_flip

  def feeds(self, step: int) -> dataset.Feeds:
    """See `dataset.TrainSet`: 'index' [B] i32."""
    every = itertools.count(step)
    return ({'index': self._order.index(s)[self._rows]} for s in every)

  def batch(self, arrays: dict[str, Any], feed: Any, key: jax.Array) -> Batch:
    """See `dataset.TrainSet`."""
    index = feed['index']
    images, flipped = augment.crop_flip(
      self._taken(arrays, feed), key, self._crop_flip
    )
    known = {
      name: each[index, flipped.astype(jnp.int32)]
      for name, each in arrays.items()
      if name not in ('image', 'label')
    }
    return {**self._batch(arrays, images, feed), **known}

  def views(self, image: jax.Array) -> list[jax.Array]:
    """All that training makes of images, where it crops none."""
    return [image, image[:, :, ::-1]] if self._crop_flip.flip else [image]
