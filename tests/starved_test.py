import time
from types import SimpleNamespace

import jax
from ml_collections import ConfigDict
import numpy as np
import pytest

from kd_jax import loop, runs, sharding, starved, trainer
from kd_jax.data import source
from tests import children, recovery_test


class Late:
  """A device's outputs, ready when the test says so."""

  def __init__(self):
    self.ready = False

  def block_until_ready(self):
    while not self.ready:
      time.sleep(0.001)
    return self


@pytest.fixture
def device():
  found = starved.Device()
  yield found
  found.close()


def test_waiting_costs_nothing_while_the_devices_work(device):
  assert device.idle(3.0, 5.0) == 2.0  # nothing was started yet
  outputs = Late()
  device.works_on(outputs)
  began = time.monotonic()
  assert device.idle(began - 1, began) == 0.0
  outputs.ready = True
  children.until(device._done.done)
  done = device._done.result()
  assert done >= began
  assert device.idle(done - 1.0, done + 0.5) == pytest.approx(0.5)
  assert device.idle(done + 1.0, done + 1.5) == pytest.approx(0.5)
  # Done between the last batch's arrival and the question.
  assert device.idle(done - 1.0, done - 0.5) == 0.0


def test_a_stretch_begins_after_the_first_dispatch():
  stretch = starved.Stretch()

  def share(waited, trained):
    seconds = {'waiting for data': waited, 'training': trained, 'saving': 9.0}
    return stretch.share(seconds)

  assert share(100.0, 0.0) == 0.0
  assert share(103.0, 12.0) == 0.0  # it goes on
  assert share(104.0, 16.0) == pytest.approx(4 / 20)
  assert share(104.0, 40.0) == 0.0  # a new one, without waiting
  assert share(114.0, 50.0) == pytest.approx(10 / 20)


def cures(
  monkeypatch, *, cores=4, free=0.0, pixels=40, name='folder:/x', **changes
):
  monkeypatch.setattr(starved, '_cores', lambda: cores)
  monkeypatch.setattr(starved, '_free_bytes', lambda device: free)
  given = {'augment': 'crop_flip', 'workers': 4, **changes}
  image = np.zeros((10, pixels, pixels, 3), np.uint8)
  images = source.Arrays(image, np.zeros(10, np.int32))
  info = source.Info(name, ('a',), 35, 10, 0, (0.5,) * 3, (0.5,) * 3)
  parts = SimpleNamespace(
    source=source.Source(info, lambda _: images), mesh=sharding.make_mesh(1)
  )
  config = ConfigDict({'data': given})
  return starved.cures(config, parts, SimpleNamespace(arrays={}))


def test_what_is_advised_applies_to_the_run(monkeypatch):
  assert cures(monkeypatch, name='x') == ['more cores than 4']
  assert cures(monkeypatch)[1].startswith('a local disk')
  fewer = cures(monkeypatch, name='x', workers=1)
  assert fewer == ['config.data.workers=4 decodes on all 4 cores, not 1']
  [larger] = cures(monkeypatch, name='x', pixels=80)
  assert '40 pixels on the shorter side (the first one has 80)' in larger
  [fits] = cures(monkeypatch, name='x', free=1e6)
  assert fits == 'config.data.device_mb=1 keeps the images on the device'
  # Random resized crops are made on the host from the whole images.
  crop = 'random_resized_crop'
  assert cures(monkeypatch, name='x', free=1e6, augment=crop) == [
    'more cores than 4'
  ]


class Slow:
  """A split whose batches come late."""

  def __init__(self, train, seconds):
    self.arrays, self.batch = {}, lambda _, *rest: train.batch(known, *rest)
    known = train.arrays
    self._train, self._seconds = train, seconds

  def feeds(self, step):
    for feed in self._train.feeds(step):
      time.sleep(self._seconds)
      yield feed


def waiting(monkeypatch, capsys, folder, seconds):
  """What a run says of its data, and where its time went."""
  monkeypatch.setattr(starved, 'STRETCH_S', 0.1)
  training = trainer.training

  def slow(*args):
    train = training(*args)
    return Slow(train, seconds) if seconds else train

  monkeypatch.setattr(trainer, 'training', slow)
  config = recovery_test.config_of()
  config.epochs = 4
  result = trainer.train(config, runs.Folder(folder))
  said = [
    line for line in capsys.readouterr().out.splitlines() if 'wait for' in line
  ]
  return said, result['time_s']


def test_a_run_that_waits_for_its_data_says_so_once(
  tmp_path, monkeypatch, capsys
):
  said, time_s = waiting(monkeypatch, capsys, tmp_path / 'run', 0.3)
  assert len(said) == 1
  assert said[0].startswith('the devices wait for data ')
  assert time_s['waiting for data'] > 1  # of 16 times 0.3 s
  assert 'the devices wait' in (tmp_path / 'run' / 'log.txt').read_text()


def test_a_run_whose_data_is_on_the_device_does_not(
  tmp_path, monkeypatch, capsys
):
  # By the CPU's time: this process itself waits on a busy machine.
  clock = SimpleNamespace(monotonic=time.process_time)
  for module in (loop, starved):
    monkeypatch.setattr(module, 'time', clock)
  said, time_s = waiting(monkeypatch, capsys, tmp_path / 'run', 0.0)
  assert said == []
  assert time_s['waiting for data'] < 0.1 * time_s['training']


def test_an_array_on_the_device_is_waited_for(device):
  device.works_on({'x': jax.numpy.ones(3) + 1})
  children.until(device._done.done)
  time.sleep(0.02)
  now = time.monotonic()
  assert device.idle(now - 0.01, now) == pytest.approx(0.01)


@pytest.mark.parametrize(
  ('pixels', 'arrays', 'steps'),
  [
    (32, {'image': 0}, 126),  # the largest divisor of 5040 up to 128
    (224, {'image': 0}, 126),
    (32, {}, 80),  # 64 MB are 81 batches
    (224, {}, 1),
    (500, {}, 1),  # a batch of 192 MB
  ],
)
def test_a_dispatch_of_a_streamed_split_takes_no_more_than_64_mb(
  pixels, arrays, steps
):
  config = ConfigDict({'steps_per_dispatch': 0, 'batch_size': 256})
  opened = SimpleNamespace(info=SimpleNamespace(image_size=pixels))
  parts = SimpleNamespace(steps_per_epoch=5040, source=opened)
  train = SimpleNamespace(arrays=arrays)
  assert loop.steps_per_dispatch(config, parts, train, 'gpu') == steps
