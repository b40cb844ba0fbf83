import itertools

import jax
import numpy as np
import pytest

from kd_jax.data import augment, resident, source, stream
from kd_jax.runtime import sharding

SIZE, BATCH = 13, 4
INFO = source.Info(
  'x', ('a', 'b', 'c'), 6, SIZE, 0, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
)


def arrays():
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (SIZE, 6, 6, 3)).astype(np.uint8)
  return source.Arrays(image, (np.arange(SIZE) % 3).astype(np.int32))


def streamed(workers=0, area=(), steps=9):
  return stream.Streamed(
    arrays(),
    INFO,
    sharding.make_mesh(1),
    workers=workers,
    batch_size=BATCH,
    seed=3,
    steps=steps,
    crop_flip=augment.CropFlip(0 if area else 2, 'reflect', True),
    area=area,
  )


def batches(dataset, step, count):
  found = []
  batch = jax.jit(dataset.batch)
  for i, feed in enumerate(itertools.islice(dataset.feeds(step), count)):
    key = jax.random.key(step + i)
    found.append(batch(dataset.arrays, feed, key))
  return found


@pytest.mark.parametrize(('workers', 'first'), [(0, 0), (0, 5), (2, 5)])
def test_streaming_gives_the_batches_of_the_device_bit_for_bit(workers, first):
  on_device = resident.Training(
    arrays(),
    INFO,
    sharding.make_mesh(1),
    batch_size=BATCH,
    seed=3,
    crop_flip=augment.CropFlip(2, 'reflect', True),
  )
  got = batches(streamed(workers), first, 4)
  want = batches(on_device, first, 4)
  assert len(got) == 4
  for a, b in zip(got, want, strict=True):
    assert set(a) == set(b)
    for name in b:
      np.testing.assert_array_equal(a[name], b[name])
      assert a[name].dtype == b[name].dtype


def test_random_crops_are_a_function_of_seed_epoch_and_image():
  feeds = [
    list(itertools.islice(streamed(area=(0.3, 1.0)).feeds(0), 9))
    for _ in range(2)
  ]
  for a, b in zip(*feeds, strict=True):
    np.testing.assert_array_equal(a['image'], b['image'])
  late = next(streamed(area=(0.3, 1.0)).feeds(7))
  np.testing.assert_array_equal(late['image'], feeds[0][7]['image'])
  # The same image in two epochs is cropped anew.
  seen = {}
  for step, feed in enumerate(feeds[0]):
    for index, image in zip(feed['index'], feed['image'], strict=True):
      seen.setdefault(int(index), {})[step // 3] = image.tobytes()
  twice = [list(found.values()) for found in seen.values() if len(found) > 1]
  assert len(twice) > 5
  assert sum(len(set(found)) > 1 for found in twice) > len(twice) / 2


def test_evaluation_streams_every_image_once():
  dataset = stream.Streamed(arrays(), INFO, sharding.make_mesh(1), workers=0)
  on_device = resident.Resident(arrays(), INFO, sharding.make_mesh(1))
  for a, b in zip(dataset.eval_feeds(5), on_device.eval_feeds(5), strict=True):
    got = jax.jit(dataset.eval_batch)(dataset.arrays, a)
    want = jax.jit(on_device.eval_batch)(on_device.arrays, b)
    for name in want:
      np.testing.assert_array_equal(got[name], want[name])


def boxed():
  """Images with objects, of which some pad."""
  images = arrays()
  rng = np.random.default_rng(1)
  first = rng.uniform(0, 0.5, (SIZE, 2, 2))
  boxes = np.concatenate([first, first + 0.4], axis=-1).astype(np.float32)
  labels = rng.integers(-1, 3, (SIZE, 2)).astype(np.int32)
  others = {'boxes': boxes, 'difficult': rng.integers(0, 2, (SIZE, 2)) > 0}
  return source.Arrays(images.image, labels, others)


@pytest.mark.parametrize('first', [0, 5])
def test_boxes_are_streamed_and_moved_as_on_the_device_bit_for_bit(first):
  how = {
    'batch_size': BATCH,
    'seed': 3,
    'crop_flip': augment.CropFlip(2, 'zero', True),
  }
  mesh = sharding.make_mesh(1)
  on_device = resident.Training(boxed(), INFO, mesh, **how)
  from_host = stream.Streamed(boxed(), INFO, mesh, workers=0, steps=9, **how)
  got, want = (batches(split, first, 4) for split in (from_host, on_device))
  assert set(want[0]) == {'image', 'label', 'boxes', 'difficult', 'index'}
  for a, b in zip(got, want, strict=True):
    assert set(a) == set(b)
    for name in b:
      np.testing.assert_array_equal(a[name], b[name])
      assert a[name].dtype == b[name].dtype


def test_feeds_of_workers_hold_no_shared_memory():
  class Shared(np.ndarray):
    """As Grain's, which removes its memory as it is freed."""

  class Feeds:
    is_open = True

    def __next__(self):
      return {'image': np.ones((2, 3)).view(Shared), 'index': np.int32(4)}

    def close(self):
      self.is_open = False

  sent = Feeds()
  feeds = stream.Owned(sent)
  feed = next(iter(feeds))
  assert type(feed['image']) is np.ndarray
  assert feed['image'].flags.owndata
  assert feed['index'] == 4
  assert feed['index'].dtype == np.int32
  feeds.close()
  assert not sent.is_open
