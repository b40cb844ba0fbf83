"""Locks in a bucket: who gets them, who keeps them, who must let go."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

from etils import epath
import pytest

from kd_jax import errors
from kd_jax.runtime import locks
from tests import children
from tests.runtime import bucket

pytest.importorskip('gcsfs', reason='locks in buckets need gcsfs')

PATH = epath.Path('gs://bucket/run/.lock')
KEY = ('bucket', 'run/.lock')


def expiry():
  """Seconds: many times what a beat takes on this machine now, and bearable."""
  return 3.0 * min(5.0, children.slowness())


# Holds the lock, and says so each time when it may write.
HOLDER = f"""
import sys, time
from etils import epath
from kd_jax import errors
from kd_jax.runtime import locks
try:
  with locks.hold(
    epath.Path('{PATH}'),
    wait=False,
    say=lambda _: None,
    expiry=float(sys.argv[1]),
  ) as held:
    print('held', flush=True)
    while True:
      held.check()
      print('may write', flush=True)
      time.sleep(0.05)
except (errors.RunError, errors.UsageError) as error:
  print('kd_jax:', error, flush=True)
  sys.exit(1)
"""


@pytest.fixture
def server(monkeypatch):
  with bucket.Server() as found:
    monkeypatch.setenv('STORAGE_EMULATOR_HOST', found.url)
    monkeypatch.setenv('GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT', 'false')
    import fsspec

    fsspec.filesystem('gcs').clear_instance_cache()  # of an older server
    yield found


def hold(wait=False, seconds=None, said=None):
  say = (lambda _: None) if said is None else said.append
  return locks.hold(PATH, wait=wait, say=say, expiry=seconds or expiry())


@contextlib.contextmanager
def holder():
  """Another process that holds the lock."""
  command = [sys.executable, '-c', HOLDER, str(expiry())]
  with children.Child(command, stdout=subprocess.PIPE) as process:
    assert process.stdout.readline() == 'held\n'
    yield process


def test_a_second_process_is_refused_with_who_holds_it(server):
  with holder() as other:
    who = rf'live in .*process {other.pid} on'
    with pytest.raises(errors.UsageError, match=who), hold():
      pass


def test_it_is_free_at_once_where_it_was_released(server):
  for _ in range(2):
    began = time.monotonic()
    with hold(seconds=1000.0) as held:
      held.check()
    assert time.monotonic() - began < 500  # it was not watched
  assert KEY not in server.objects


def test_who_waits_gets_it_when_it_is_released(server):
  order, said = [], []

  def second():
    with hold(wait=True, said=said):
      order.append('second')

  thread = threading.Thread(target=second)
  with hold():
    thread.start()
    time.sleep(1.5 * expiry())  # longer than a dead holder would keep it
    order.append('first')
  thread.join()
  assert order == ['first', 'second']
  assert len(said) == 1
  assert said[0].startswith('waiting for another run in gs://bucket/run')


def test_a_killed_holder_blocks_for_one_expiry_and_no_longer(server):
  with holder() as other:
    other.send_signal(signal.SIGKILL)
    other.wait()
  said = []
  began = time.monotonic()
  with hold(said=said) as held:
    assert expiry() <= time.monotonic() - began < 3 * expiry()
    held.check()
  assert f'process {other.pid}' in said[0]
  assert 'taking over' in said[1]


def test_of_many_who_find_a_dead_lock_one_gets_it(server):
  server.change(KEY, b'{"pid": 1, "host": "gone"}', {})
  got, refused = [], []

  def contend():
    try:
      with hold(seconds=expiry() / 3):
        got.append(1)
        time.sleep(expiry())
    except errors.UsageError:
      refused.append(1)

  threads = [threading.Thread(target=contend) for _ in range(6)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert (len(got), len(refused)) == (1, 5)


def test_a_holder_that_slept_too_long_stops_with_one_line(server):
  with holder() as other:
    other.send_signal(signal.SIGSTOP)
    with hold():
      kept = server.objects[KEY][1]
      other.send_signal(signal.SIGCONT)
      said = other.communicate()[0].splitlines()
      assert other.returncode == 1
      assert len([line for line in said if 'kd_jax' in line]) == 1
      assert f'process {os.getpid()} on' in said[-1]
      assert 'has taken over gs://bucket/run' in said[-1]
      assert f'"pid": {os.getpid()},'.encode() in kept
      assert f'"pid": {os.getpid()},'.encode() in server.objects[KEY][1]


def test_a_holder_that_slept_and_lost_nothing_goes_on(server):
  with holder() as other:
    other.send_signal(signal.SIGSTOP)
    time.sleep(1.5 * expiry())
    other.send_signal(signal.SIGCONT)
    for _ in range(100):  # more than what the pipe holds from before
      assert other.stdout.readline() == 'may write\n'
    assert other.poll() is None


def test_a_renewal_whose_answer_was_lost_is_no_loss(server):
  with hold(seconds=60.0) as held:
    server.deaf = True
    held._renew()  # gcsfs repeats it, and meets what it wrote itself
    assert not server.deaf
    held.check()
    assert held._generation == server.objects[KEY][0]


def test_a_holder_that_cannot_renew_stops(server):
  with hold(seconds=1.0) as held:
    server.broken = True
    time.sleep(1.0)
    with pytest.raises(errors.RunError, match=r'cannot renew .* is broken'):
      held.check()
    server.broken = False
    held.check()  # nobody came in between


def test_a_bucket_that_is_not_there_is_wrong_usage(server):
  server.broken = True
  with (
    pytest.raises(errors.UsageError, match='cannot write in gs://bucket/run'),
    hold(),
  ):
    pass


def test_a_bucket_of_another_service_is_refused():
  with (
    pytest.raises(errors.UsageError, match='gs://'),
    locks.hold(epath.Path('s3://bucket/.lock'), wait=False),
  ):
    pass
