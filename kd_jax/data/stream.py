"""A split that is decoded by worker processes and streamed to the device.

Grain reads the split by index. A batch is therefore the same pure function of
(seed, step) as that of a split on the device, and a run can resume at any step
without a saved position.
"""

import dataclasses
from typing import Any

from absl import flags
import jax
from jax.sharding import Mesh
import numpy as np

from kd_jax.data import (
  augment,
  augment_boxes,
  augment_masks,
  dataset,
  decode,
  mixing,
  source,
)
from kd_jax.data import varied as varied_lib
from kd_jax.features import Batch
from kd_jax.runtime import sharding

_BUFFER = 2  # batches that each worker keeps ready
_OURS = ('index', 'mask')  # what a feed has beside its images and targets


@dataclasses.dataclass(frozen=True)
class Decoder:
  """A function that reads a single image at the size of the network's input.

  Attributes:
    images: The split.
    size: The height and width of the network's input, in pixels.
    area: The least and the greatest fraction of the image's area that a random
      resized crop takes; () fits the whole image.
    seed: The seed of the crops, which also depend on the epoch and the image.
    masked: How images with masks are augmented; None does not.
    boxed: How images with boxes are augmented; None does not.
    varied: How images are varied; None does not.
    fast: Whether JPEGs of random resized crops may be decoded at a reduced
      scale; see `decode.decoded_crop`.
  """

  images: source.Images
  size: int
  area: tuple[float, ...] = ()
  seed: int = 0
  masked: augment_masks.Masked | None = None
  boxed: augment_boxes.Boxed | None = None
  varied: varied_lib.Varied | None = None
  fast: bool = False

  def __call__(self, index: int, epoch: int = 0) -> dataset.Feed:
    """Returns an item: 'image' [size,size,3] u8, its targets, 'index' i32."""
    rng = self._rng(index, epoch)
    if self.area:
      image, targets = self._cropped(rng, index)
      return self._item(rng, image, targets, index)
    image, target = self.images.read(index)
    if self.masked is not None:
      assert isinstance(target, dict)  # `build.build` checks
      image, mask = augment_masks.augment(
        rng, image, target['label'], self.masked
      )
      targets = {'label': mask}
    elif self.boxed is not None:
      assert isinstance(target, dict)  # `build.build` checks
      image, targets = augment_boxes.augmented(rng, image, target, self.boxed)
    else:
      image, targets = source.fitted(image, target, self.size)
    return self._item(rng, image, targets, index)

  def _cropped(
    self, rng: np.random.Generator, index: int
  ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Returns a random resized crop [size,size,3] u8, and its targets."""
    least, most = self.area
    encoded = source.encoded(self.images, index) if self.fast else None
    if encoded is None:
      image, target = self.images.read(index)
      image = decode.random_resized_crop(image, self.size, rng, (least, most))
    else:
      content, where, target = encoded
      image = decode.decoded_crop(content, where, self.size, rng, (least, most))
    assert not isinstance(target, dict)  # `build.build` checks
    return image, {'label': np.array(target, np.int32)}

  def _item(
    self,
    rng: np.random.Generator,
    image: np.ndarray,
    targets: dict[str, np.ndarray],
    index: int,
  ) -> dataset.Feed:
    if self.varied is not None:
      image = varied_lib.vary(rng, image, self.varied)
    return {'image': image, **targets, 'index': np.int32(index)}

  def _rng(self, index: int, epoch: int) -> np.random.Generator:
    bits = np.random.Philox(np.random.SeedSequence((self.seed, epoch, index)))
    return np.random.Generator(bits)


class _TrainItems:
  """The items of all steps of a run, as a random-access source for Grain.

  Only the items of this process's rows of every batch are included.
  """

  def __init__(
    self, decoder: Decoder, order: dataset.Order, steps: int, rows: np.ndarray
  ):
    self._decoder, self._order, self._steps = decoder, order, steps
    self._rows = rows

  def __len__(self) -> int:
    return self._steps * len(self._rows)

  def __getitem__(self, position: int) -> dataset.Feed:
    step, row = divmod(position, len(self._rows))
    epoch = step // self._order.steps_per_epoch
    index = self._order.index(step)[self._rows[row]]
    return self._decoder(int(index), epoch)

  # The cache of an `Order` cannot be pickled, so its arguments are.
  def __getstate__(self) -> dict[str, Any]:
    order = self._order
    arguments = (order.size, order.batch_size, order.seed)
    return {**self.__dict__, '_order': arguments}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__dict__.update({**state, '_order': dataset.Order(*state['_order'])})


class _EvalItems:
  """The items of a split in order, as a random-access source for Grain.

  Only the items of this process's rows of every batch are included; the last
  batch is padded.
  """

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


def batches(
  items: Any, first: int, batch_size: int, workers: int
) -> dataset.Feeds:
  """Returns batches of items that worker processes decode.

  Args:
    items: A random-access source for Grain.
    first: The position of the first item.
    batch_size: The number of items in a batch of this process; 0 takes each
      item as a batch.
    workers: The number of worker processes; 0 decodes in this process.
  """
  # Imported late, so that runs that stream nothing avoid a slow import and the
  # messages that it prints under older JAX.
  import grain

  if workers and not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()  # grain's workers read flags
  sequence = grain.MapDataset.source(items).slice(slice(first, None))
  if batch_size:
    sequence = sequence.batch(batch_size)
  stream = sequence.to_iter_dataset(
    grain.ReadOptions(num_threads=1, prefetch_buffer_size=_BUFFER)
  )
  if workers:
    stream = stream.mp_prefetch(
      grain.MultiprocessingOptions(workers, per_worker_buffer_size=_BUFFER)
    )
    return Owned(iter(stream))
  return iter(stream)


class Owned:
  """Feeds whose arrays own their memory.

  Those that Grain's workers send are views of shared memory, which a thread
  removes once they are freed. At the end of a process, as where the traceback
  of an error holds a feed, that is too late, and Python warns of a leak.
  """

  def __init__(self, feeds: dataset.Feeds):
    """Creates the iterator.

    Args:
      feeds: What is copied, feed by feed.
    """
    self._feeds = feeds

  def __iter__(self) -> 'Owned':
    """Returns the iterator itself."""
    return self

  def __next__(self) -> dataset.Feed:
    """Returns the next feed."""
    return {name: np.array(value) for name, value in next(self._feeds).items()}

  def close(self) -> None:
    """Stops the workers."""
    self._feeds.close()


class Streamed:
  """A split streamed from the host: a `dataset.TrainSet` and `EvalSet`.

  Attributes:
    arrays: Empty, as nothing stays on the devices.
    size: The number of images.
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
    masked: augment_masks.Masked | None = None,
    boxed: augment_boxes.Boxed | None = None,
    mixed: mixing.Mixing | None = None,
    varied: varied_lib.Varied | None = None,
    fast: bool = False,
  ):
    """Creates the split without reading an image.

    The arguments from `batch_size` on are used in training alone.

    Args:
      images: The split.
      info: The facts of the data set.
      mesh: The devices; each process decodes its own rows of a batch.
      workers: The number of worker processes; 0 decodes in this process.
      batch_size: The batch size of training, over all processes.
      seed: The seed of the order and the random resized crops.
      steps: The number of steps of the whole run.
      crop_flip: The augmentation on the device; None for none.
      area: The range of the random resized crops; see `Decoder.area`.
      masked: How images with masks are augmented; see `Decoder.masked`.
      boxed: How images with boxes are augmented; see `Decoder.boxed`.
      mixed: How images and labels are mixed; None leaves them.
      varied: How images are varied; see `Decoder.varied`.
      fast: Whether JPEGs may be decoded at a reduced scale; see `Decoder.fast`.
    """
    self.arrays: dict[str, jax.Array] = {}
    self.size = len(images)
    self._images, self._info, self._mesh = images, info, mesh
    self._workers = workers
    self._batch_size, self._seed, self._steps = batch_size, seed, steps
    self._crop_flip, self._area = crop_flip, area
    self._masked, self._boxed = masked, boxed
    self._mixed, self._varied, self._fast = mixed, varied, fast

  def feeds(self, step: int) -> dataset.Feeds:
    """Returns feeds of 'image' u8, 'label', 'index'; see `dataset.TrainSet`."""
    size, batch_size = self._info.image_size, self._batch_size
    how = self._area, self._seed, self._masked, self._boxed, self._varied
    decoder = Decoder(self._images, size, *how, self._fast)
    order = dataset.Order(self.size, batch_size, self._seed)
    rows = sharding.rows(self._mesh, batch_size)
    items = _TrainItems(decoder, order, self._steps, rows)
    return batches(items, step * len(rows), len(rows), self._workers)

  def batch(self, arrays: dict[str, Any], feed: Any, key: jax.Array) -> Batch:
    """Returns the augmented batch of a feed; see `dataset.TrainSet`."""
    images, how, moved = feed['image'], self._crop_flip, None
    if how is not None:
      images, moved = augment.crop_flip(images, key, how)
    batch = self._batch(images, feed, moved)
    return dataset.mixed(batch, images, key, self._mixed, self._info)

  def eval_feeds(self, batch_size: int) -> dataset.Feeds:
    """Returns feeds of all images in order; see `dataset.EvalSet`."""
    decoder = Decoder(self._images, self._info.image_size)
    rows = sharding.rows(self._mesh, batch_size)
    items = _EvalItems(decoder, batch_size, rows)
    return batches(items, 0, len(rows), self._workers)

  def eval_batch(self, arrays: dict[str, Any], feed: Any) -> Batch:
    """Returns the batch of a feed; see `dataset.EvalSet`."""
    return self._batch(feed['image'], feed)

  def _batch(self, images, feed, moved=None) -> Batch:
    others = {k: v for k, v in feed.items() if k in _OURS}
    targets = {k: v for k, v in feed.items() if k not in (*_OURS, 'image')}
    image = dataset.normalised(images, self._info)
    return {'image': image, **augment.targets(targets, moved), **others}
