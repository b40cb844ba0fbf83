"""A split that stays on the device as uint8; only indices are sent to it."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from kd_jax.data import augment, dataset, mixing, source
from kd_jax.features import Batch
from kd_jax.runtime import sharding


class Resident:
  """A split on the device, which is read in order: a `dataset.EvalSet`.

  Attributes:
    arrays: 'image' [M,H*W*3] u8 and the targets, such as 'label' [M] i32, on
      every device. A TPU would copy images of four dimensions into such rows at
      every dispatch.
    size: M, the number of images.
  """

  def __init__(self, split: source.Arrays, info: source.Info, mesh: Mesh):
    """Copies the split to the devices of the mesh."""
    self.size = len(split)
    self._info, self._mesh = info, mesh
    self._shape = split.image.shape[1:]
    rows = split.image.reshape(self.size, -1)
    self._targets = tuple(split.targets)
    self.arrays: dict[str, jax.Array] = sharding.put(
      {'image': rows, **split.targets}, sharding.replicated(mesh)
    )

  def eval_feeds(self, batch_size: int) -> dataset.Feeds:
    """Returns feeds with 'index' and 'mask'; see `dataset.EvalSet`."""
    rows = sharding.rows(self._mesh, batch_size)
    return dataset.masked(self.size, batch_size, rows)

  def eval_batch(self, arrays: dict[str, Any], feed: Any) -> Batch:
    """Returns the batch of a feed; see `dataset.EvalSet`."""
    return self._batch(arrays, self._taken(arrays, feed), feed)

  def _taken(self, arrays: dict[str, Any], feed: Any) -> jax.Array:
    """Returns the images of a feed, [B,H,W,3] u8."""
    return arrays['image'][feed['index']].reshape(-1, *self._shape)

  def _batch(self, arrays, images, feed, moved=None) -> Batch:
    image = dataset.normalised(images, self._info)
    targets = {name: arrays[name][feed['index']] for name in self._targets}
    return {'image': image, **augment.targets(targets, moved), **feed}


class Training(Resident):
  """A split on the device, shuffled and augmented: a `dataset.TrainSet`.

  `arrays` may also hold a teacher's logits, under the key `features.known`:
  [M,1,K] f32, or [M,2,K] with the logits of the mirrored images.
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
    mixed: mixing.Mixing | None = None,
  ):
    """Copies the split to the devices of the mesh.

    Args:
      split: The images and labels.
      info: The facts of the data set.
      mesh: The devices.
      batch_size: B, over all processes.
      seed: The seed of the order.
      crop_flip: The augmentation.
      mixed: How images and labels are mixed; None leaves them.
    """
    super().__init__(split, info, mesh)
    self._order = dataset.Order(self.size, batch_size, seed)
    self._rows = sharding.rows(mesh, batch_size)
    self._crop_flip, self._mixed = crop_flip, mixed

  def feeds(self, step: int) -> dataset.Feeds:
    """Returns feeds with 'index' [B] i32; see `dataset.TrainSet`."""
    steps = itertools.count(step)
    return ({'index': self._order.index(s)[self._rows]} for s in steps)

  def batch(self, arrays: dict[str, Any], feed: Any, key: jax.Array) -> Batch:
    """Returns the augmented batch of a feed; see `dataset.TrainSet`."""
    index = feed['index']
    images, moved = augment.crop_flip(
      self._taken(arrays, feed), key, self._crop_flip
    )
    known_logits = {
      name: logits[index, moved.flipped.astype(jnp.int32)]
      for name, logits in arrays.items()
      if name not in ('image', *self._targets)
    }
    batch = {**self._batch(arrays, images, feed, moved), **known_logits}
    return dataset.mixed(batch, images, key, self._mixed, self._info)

  def views(self, image: jax.Array) -> list[jax.Array]:
    """Returns all augmented variants of images when training does not crop.

    Args:
      image: The images, [N,H,W,3].

    Returns:
      The images and, if training flips, the mirrored images.
    """
    return [image, image[:, :, ::-1]] if self._crop_flip.flip else [image]
