"""Trains a few methods as one of several processes, for processes_test."""

import itertools
import pathlib
import shutil
import sys

import flax.linen as nn
import jax
from jax.experimental import multihost_utils
import numpy as np

from kd_jax import errors
from kd_jax.data import augment, dataset, resident, source, stream
from kd_jax.features import tap
from kd_jax.models import layers
from kd_jax.runtime import distributed, run_dir, sharding
from kd_jax.training import picture, run
from tests import tiny
from tests.cli import train_test


class Small(layers.Network):
  """A ResNet's taps with one BatchNorm per stage; it compiles fast."""

  widths: tuple[int, ...]

  @nn.compact
  def __call__(self, images, *, train):
    x = layers.Conv(self.widths[0], 3, name='conv1')(images)
    x = tap(self, 'stem', nn.relu(x))
    for i, width in enumerate(self.widths[1:], 1):
      block = tiny.Block(width, min(i, 2), self.norm, name=f'stage{i}_block1')
      pre = tap(self, f'stage{i}_pre', block(x, train=train))
      x = tap(self, f'stage{i}', nn.relu(pre))
    return self.classify(x)


def config_of(method, epochs):
  """Returns a configuration with epochs of five steps and very small networks.

  It saves at the end. The learning rate is small: with a usual one the last
  bits of a sum would grow to whole numbers within 20 steps of such small
  batches, most of all in FFSD.

  Args:
    method: The name of the method.
    epochs: The number of epochs.
  """
  config = train_test.configuration(method).get_config('digits')
  config.data.train_size, config.batch_size = 40, 8
  config.epochs, config.checkpoint_every = epochs, 100.0
  config.eval_batch_size, config.eval_every = 360, 100.0
  config.optimizer.learning_rate.value = 1e-3
  config.student.name = 'tests.training.processes_worker:Small'
  config.student.args.widths = (4, 4, 8, 16)
  if method == 'crd':
    config.method_args.negatives = 16
  if method == 'ffsd':
    config.method_args.taps = ('stage2', 'stage3')
  if config.teacher.name:
    config.teacher.name = 'tests.training.processes_worker:Small'
    config.teacher.args.widths = (4, 8, 8, 16)
    config.teacher.recipe.epochs = 1
    config.teacher.recipe.batch_size = 40
    config.teacher.expected_top1 = 0.0
  return config


def raised(what):
  """Returns the message of the UsageError that `what()` raises."""
  try:
    what()
  except errors.UsageError as error:
    return str(error)
  raise AssertionError('nothing was raised')


def fail(text):
  """Raises a UsageError with a message."""
  raise errors.UsageError(text)


def check_agreement():
  """Checks that processes share values, errors and decisions."""
  index = distributed.index()
  assert distributed.gather(index) == [0, 1]
  # Gloo waits only 30 s for a late process in the first exchange between some
  # devices, and no option raises this. That is done here, where no process has
  # work that delays it.
  multihost_utils.process_allgather(np.zeros(1))
  assert distributed.first(lambda: {'of': index}) == {'of': 0}
  assert (
    raised(lambda: distributed.first(lambda: fail(f'in {index}'))) == 'in 0'
  )
  both = lambda: fail('both')  # noqa: E731
  assert raised(lambda: distributed.together(both)) == 'both'
  second = lambda: fail('here') if index else None  # noqa: E731
  text = raised(lambda: distributed.together(second))
  assert text == 'process 1: here'
  assert distributed.together(lambda: index) == index
  for flags in ((False, False), (True, False), (False, True)):
    assert distributed.poll(flags[index])() is any(flags)
  assert 'give -1' in raised(lambda: sharding.make_mesh(2))


def check_feeds():
  """Checks that the rows of all processes together are the global batch."""
  mesh, batch = sharding.make_mesh(), 8
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (20, 4, 4, 3)).astype(np.uint8)
  arrays = source.Arrays(images, np.arange(20, dtype=np.int32) % 3)
  info = source.Info('x', ('a', 'b', 'c'), 4, 20, 0, (0.5,) * 3, (0.2,) * 3)
  crop = augment.CropFlip(1, 'zero', True)
  arguments = {'batch_size': batch, 'seed': 3, 'crop_flip': crop}
  sets = (
    resident.Training(arrays, info, mesh, **arguments),
    stream.Streamed(arrays, info, mesh, workers=0, steps=5, **arguments),
  )
  for step in (0, 3):
    batches = []
    for training in sets:
      feed = next(iter(training.feeds(step)))
      assert feed['index'].shape == (batch // 2,)
      together = sharding.join(feed, mesh)
      whole = sharding.replicated(mesh)
      assembled = jax.jit(training.batch, out_shardings=whole)(
        training.arrays, together, jax.random.key(step)
      )
      batches.append({k: np.asarray(v) for k, v in assembled.items()})
    expected = dataset.Order(20, batch, 3).index(step)
    np.testing.assert_array_equal(batches[0]['index'], expected)
    for name in ('index', 'label', 'image'):
      np.testing.assert_array_equal(batches[0][name], batches[1][name])
  for training in sets:
    feeds = list(training.eval_feeds(batch))
    seen = [distributed.gather(feed['index'].tolist()) for feed in feeds]
    assert sorted(np.ravel(seen[0])) == list(range(batch))
    count = sum(float(np.sum(feed['mask'])) for feed in feeds)
    assert sum(distributed.gather(count)) == 20


def check_shared(folder):
  """Checks that all processes refuse a folder that only one of them sees."""
  late_s, run_dir._LATE_S = run_dir._LATE_S, 1
  folder_of_process = run_dir.Folder(folder / f'own{distributed.index()}')

  def lock():
    with folder_of_process.lock(wait=False):
      pass

  text = raised(lock)
  assert text.startswith('process 1: process 1 of 2 on ')
  assert 'storage that all share' in text
  run_dir._LATE_S = late_s


def stop_in_between(config, folder):
  """Trains until one process is asked to stop, which stops and saves all.

  Returns:
    The message, which says where they stopped.
  """
  dispatches = itertools.count()

  def asked():
    return next(dispatches) > 5 and distributed.index() == 1

  try:
    run.train(config, folder, should_stop=asked)
  except run.Interrupted as stopped:
    return str(stopped)
  raise AssertionError('it did not stop')


def main(folder, *methods):
  """Trains each method for 5 steps in folder/first, and 20 more in a copy."""
  distributed.start(heartbeat_timeout_seconds=100)  # heartbeats may come late
  check_agreement()
  check_feeds()
  check_shared(pathlib.Path(folder))
  for method in methods:
    first, more = (pathlib.Path(folder) / n / method for n in ('first', 'more'))
    result = run.train(config_of(method, 1), run_dir.Folder(first))
    results = distributed.gather(result)
    assert results == [result] * distributed.count()
    distributed.first(lambda a=first, b=more: str(shutil.copytree(a, b)))
    if method == 'kd':
      stopped = stop_in_between(config_of(method, 5), run_dir.Folder(more))
      assert distributed.gather(stopped) == [stopped] * distributed.count()
    run.train(config_of(method, 5), run_dir.Folder(more))
    picture.curves = lambda *_: None  # drawing takes longer than training
  print('done', distributed.count(), jax.device_count())


if __name__ == '__main__':
  main(*sys.argv[1:])
