import time
from types import SimpleNamespace

import jax
import pytest

from kd_jax.distill import dispatch
from kd_jax.runtime import run_dir
from kd_jax.training import loop, run, splits, starved
from tests import children
from tests.training import recovery_test


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


def waiting(monkeypatch, capsys, folder, seconds, config, stretch_s):
  """What a run says of its data, and where its time went."""
  monkeypatch.setattr(starved, 'STRETCH_S', stretch_s)
  training = splits.training

  def slow(*args):
    train = training(*args)
    return Slow(train, seconds) if seconds else train

  monkeypatch.setattr(splits, 'training', slow)
  result = run.train(config, run_dir.Folder(folder))
  said = [
    line for line in capsys.readouterr().out.splitlines() if 'wait for' in line
  ]
  return said, result['time_s']


def test_a_run_that_waits_for_its_data_says_so_once(
  tmp_path, monkeypatch, capsys
):
  config = recovery_test.config_of()
  config.epochs = 4
  said, time_s = waiting(
    monkeypatch, capsys, tmp_path / 'run', 0.3, config, 0.1
  )
  assert len(said) == 1
  assert said[0].startswith('the devices wait for data ')
  assert time_s['waiting for data'] > 1  # of 16 times 0.3 s
  assert 'the devices wait' in (tmp_path / 'run' / 'log.txt').read_text()


@pytest.mark.drill
def test_a_run_whose_data_is_on_the_device_does_not(
  tmp_path, monkeypatch, capsys
):
  # By the CPU's time: this process itself waits on a busy machine.
  clock = SimpleNamespace(monotonic=time.process_time)
  for module in (loop, starved):
    monkeypatch.setattr(module, 'time', clock)
  # Steps long enough that a pause of this process is a small share of them, and
  # no threads that save beside them.
  config = recovery_test.config_of()
  config.student.args.widths = (32, 32, 64, 128)
  config.epochs = config.checkpoint_every = 8
  said, time_s = waiting(
    monkeypatch, capsys, tmp_path / 'run', 0.0, config, 0.15
  )
  assert time_s['training'] > 0.15  # the share was measured
  assert said == []
  assert time_s['waiting for data'] < 0.1 * time_s['training']


def test_an_array_on_the_device_is_waited_for(device):
  device.works_on({'x': jax.numpy.ones(3) + 1})
  children.until(device._done.done)
  time.sleep(0.02)
  now = time.monotonic()
  assert device.idle(now - 0.01, now) == pytest.approx(0.01)


@pytest.mark.parametrize(
  ('pixels', 'streams', 'steps'),
  [
    (32, False, 126),  # the largest divisor of 5040 up to 128
    (224, False, 126),
    (32, True, 80),  # 64 MB are 81 batches
    (224, True, 1),
    (500, True, 1),  # a batch of 192 MB
  ],
)
def test_a_dispatch_of_a_streamed_split_takes_no_more_than_64_mb(
  pixels, streams, steps
):
  setting = dispatch.Setting(
    exp=SimpleNamespace(teachers={}),
    traced=dict,
    platform='gpu',
    devices=1,
    image_size=pixels,
    batch_size=256,
    steps_per_epoch=5040,
    streams=streams,
  )
  assert dispatch.chosen(setting).steps == steps
