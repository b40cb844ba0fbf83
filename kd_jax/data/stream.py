"""A split that is decoded by worker processes and streamed to the device.

Grain reads it by index, so that a batch is the same pure function of (seed,
step) as that of a split on the device, and going on at any step needs no saved
position.
"""

import dataclasses
from typing import Any

from absl import flags
import jax
from jax.sharding import Mesh
import numpy as np

from kd_jax.data import augment, dataset, decode, source
from kd_jax.features import Batch
from kd_jax.runtime import sharding

_BUFFER = 2  # batches that each worker keeps ready


@dataclasses.dataclass(frozen=True)
class Decoder:
  """Reads one image of a split at the size that networks see.

  Attributes:
    images: the split.
    size: pixels.
    area: of a random resized crop; () fits the whole image.
    seed: decides the crops, with the epoch and the image.
  """

  images: source.Images
  size: int
  area: tuple[float, ...] = ()
  seed: int = 0

  def __call__(self, index: int, epoch: int = 0) -> dataset.Feed:
    """One item: 'image' [size,size,3] u8, 'label' and 'index' i32."""
    image, label = self.images.read(index)
    return {
      'image': self._sized(image, index, epoch),
      'label': np.int32(label),
      'index': np.int32(index),
    }

  def _sized(self, image: np.ndarray, index: int, epoch: int) -> np.ndarray:
    if not self.area:
      return decode.fit(image, self.size)
    bits = np.random.Philox(np.random.SeedSequence((self.seed, epoch, index)))
    rng = np.random.Generator(bits)
    least, most = self.area
    return decode.random_resized_crop(image, self.size, rng, (least, most))


class _TrainItems:
  """Rows of the batches of all steps of a run; a grain random-access source."""

  def __init__(
    self, decoder: Decoder, order: dataset.Order, steps: int, rows: np.ndarray
  ):
    self._decoder, self._order, self._steps = decoder, order, steps
    self._rows = rows

  def __len__(self) -> int:
    return self._steps * len(self._rows)

  def __getitem__(self, position: int) -> dataset.Feed:
    step, within = divmod(position, len(self._rows))
    epoch = step // self._order.steps_per_epoch
    image = self._order.index(step)[self._rows[within]]
    return self._decoder(int(image), epoch)

  def __getstate__(self) -> dict[str, Any]:
    order = self._order
    made = (order.size, order.batch_size, order.seed)
    return {**self.__dict__, '_order': made}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__dict__.update({**state, '_order': dataset.Order(*state['_order'])})


class _EvalItems:
  """Rows of the batches of a split in order, the last one padded."""

  def __init__(self, decoder: Decoder, batch_size: int, rows: np.ndarray):
    self._decoder = decoder
    feeds = list(dataset.masked(len(decoder.images), batch_size, rows))
    self._index = np.concatenate([feed['index'] for feed in feeds])
    self._mask = np.concatenate([feed['mask'] for feed in feeds])

  def __len__(self) -> int:
    return len(self._index)

  def __getitem__(self, position: int) -> dataset.Feed:
    item = self._decoder(int(self._index[position]))
    return {**item, 'mask': self._mask[position]}


def _batches(
  items: Any, first: int, batch_size: int, workers: int
) -> dataset.Feeds:
  """Batches from position `first` on, decoded in other processes."""
  import grain  # slow, and talks on older JAX, where nothing is streamed

  if workers and not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()  # grain's workers read flags
  made = grain.MapDataset.source(items)
  made = made.slice(slice(first, None)).batch(batch_size)
  stream = made.to_iter_dataset(
    grain.ReadOptions(num_threads=1, prefetch_buffer_size=_BUFFER)
  )
  if workers:
    stream = stream.mp_prefetch(
      grain.MultiprocessingOptions(workers, per_worker_buffer_size=_BUFFER)
    )
  return iter(stream)


class Streamed:
  """A split streamed from the host, a `dataset.TrainSet` and `EvalSet`.

  Attributes:
    arrays: nothing lives on the devices.
    size: images.
  """

  def __init__(
    self,
    images: source.Images,
    info: source.Info,
    mesh: Mesh,
    *,
    workers: int,
    batch_size: int = 0,
    seed: int = 0,
    steps: int = 0,
    crop_flip: augment.CropFlip | None = None,
    area: tuple[float, ...] = (),
  ):
    """Reads nothing yet.

    Args:
      images: the split.
      info: of the data set.
      mesh: the devices; each process decodes its part of a batch.
      workers: processes that decode; 0 decodes in this one.
      batch_size: of training.
      seed: of training.
      steps: of training, all of them.
      crop_flip: of training.
      area: of training's random resized crops; () for none.
    """
    self.arrays: dict[str, jax.Array] = {}
    self.size = len(images)
    self._images, self._info, self._mesh = images, info, mesh
    self._workers = workers
    self._batch_size, self._seed, self._steps = batch_size, seed, steps
    self._crop_flip, self._area = crop_flip, area

  def feeds(self, step: int) -> dataset.Feeds:
    """See `dataset.TrainSet`: 'image' u8, 'label', 'index'."""
    size, count = self._info.image_size, self._batch_size
    decoder = Decoder(self._images, size, self._area, self._seed)
    order = dataset.Order(self.size, count, self._seed)
    rows = sharding.rows(self._mesh, count)
    items = _TrainItems(decoder, order, self._steps, rows)
    return _batches(items, step * len(rows), len(rows), self._workers)

  def batch(self, arrays: dict[str, Any], feed: Any, key: jax.Array) -> Batch:
    """See `dataset.TrainSet`."""
    images, how = feed['image'], self._crop_flip
    if how is not None:
      images, _ = augment.crop_flip(images, key, how)
    return {**feed, 'image': dataset.normalised(images, self._info)}

  def eval_feeds(self, batch_size: int) -> dataset.Feeds:
    """See `dataset.EvalSet`."""
    decoder = Decoder(self._images, self._info.image_size)
    rows = sharding.rows(self._mesh, batch_size)
    items = _EvalItems(decoder, batch_size, rows)
    return _batches(items, 0, len(rows), self._workers)

  def eval_batch(self, arrays: dict[str, Any], feed: Any) -> Batch:
    """See `dataset.EvalSet`."""
    return {**feed, 'image': dataset.normalised(feed['image'], self._info)}
