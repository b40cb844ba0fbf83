"""Locks between processes: of one machine, or of all that share a bucket.

On a disk the operating system keeps the lock and frees it when the process
ends, however it ends.

In a bucket the lock is an object that says who holds it, and that its holder
rewrites every few seconds (the beat). Every write of it is conditional on the
generation that the writer has seen, so of two writers one loses and knows it:

- Who finds no lock creates it. Who finds one watches it: one that changes is
  alive. One that has not changed for a whole expiry, by the watcher's own
  clock, is dead (killed, cut off or asleep) and is taken over. No machine's
  time of day enters, so it need not be right.
- A holder counts its lock as good for 3/4 of an expiry from the moment when it
  asked for its last renewal. Beyond that it renews before it writes anything,
  and stops for good where another has taken the lock. A watcher waits longer
  than that, from a moment at which it has seen the renewal done, so the two
  never write at once. (A write that was already on its way when the holder was
  paused cannot be called back.)
"""

from collections.abc import Callable, Iterator
import contextlib
import fcntl
import json
import os
import socket
import threading
import time
from typing import Any
import uuid

from etils import epath

from kd_jax import errors
from kd_jax.runtime import gcs

# Seconds without a beat after which the holder of a bucket's lock is dead.
_EXPIRY = 60.0

# Beats in an expiry.
_BEATS = 6


class Held:
  """A lock that is held."""

  def check(self) -> None:
    """To be called before each write that the lock protects.

    Raises:
      RunError: where another process holds it now, or may.
    """


@contextlib.contextmanager
def hold(
  path: epath.Path,
  *,
  wait: bool,
  say: Callable[[str], None] = print,
  expiry: float = _EXPIRY,
) -> Iterator[Held]:
  """Keeps other processes out while it is held.

  Args:
    path: of the lock's file.
    wait: wait for a process that holds it, or refuse.
    say: tells that it waits.
    expiry: in a bucket, seconds after which a silent holder is dead; the same
      for all.

  Raises:
    UsageError: where another process holds it, or the file cannot be made.
  """
  if not gcs.is_bucket(path):
    with _file_lock(path, wait, say):
      yield Held()
    return
  try:
    lease = _acquired(path, wait, say, expiry)
  except gcs.UnreachableError as error:
    raise errors.UsageError(
      f'cannot write in {path.parent}: {error}'
    ) from error
  beat = threading.Thread(target=lease.beat, name='lock', daemon=True)
  beat.start()
  try:
    yield lease
  finally:
    lease.release()


@contextlib.contextmanager
def _file_lock(
  path: epath.Path, wait: bool, say: Callable[[str], None]
) -> Iterator[None]:
  try:
    file = open(os.fspath(path), 'a')  # noqa: SIM115  (closed below)
  except OSError as error:
    raise errors.UsageError(
      f'cannot write in {path.parent}: {error.strerror}'
    ) from error
  with file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      if not wait:
        raise errors.UsageError(
          f'another run is live in {path.parent}; wait for it, or give another '
          '--workdir'
        ) from None
      say(f'waiting for another run in {path.parent}')
      fcntl.flock(file, fcntl.LOCK_EX)
    yield


def _acquired(
  path: epath.Path, wait: bool, say: Callable[[str], None], expiry: float
) -> '_Lease':
  """The bucket's lock, once it is free or its holder is dead."""
  file, lease = gcs.Object(path), _Lease(path, expiry)
  seen, since = 0, 0.0  # the generation that is watched, since when
  while True:
    asked = _clock()
    content, generation = file.read()
    silent = generation == seen and asked - since >= expiry
    if generation == 0 or silent:
      if silent and generation:
        say(
          f'{_who(content)} left {path.parent} locked and has been silent for '
          f'{expiry:.0f} s; taking over'
        )
      if lease.take(generation) is None:
        return lease
    elif generation != seen:
      if seen and not wait:
        raise errors.UsageError(
          f'another run is live in {path.parent}: {_who(content)}; wait for '
          'it, or give another --workdir'
        )
      if not seen:
        say(
          f'waiting for another run in {path.parent}: {_who(content)}'
          if wait
          else f'{path.parent} is locked by {_who(content)}; watching for at '
          f'most {expiry:.0f} s whether it is alive'
        )
      seen, since = generation, _clock()
    time.sleep(expiry / _BEATS / 4)


class _Lease(Held):
  """A bucket's lock, good for a while and then to be renewed."""

  def __init__(self, path: epath.Path, expiry: float):
    self._path, self._expiry = path, expiry
    self._file = gcs.Object(path)
    self._owner = {
      'host': socket.gethostname(),
      'pid': os.getpid(),
      'id': uuid.uuid4().hex,
      'since': time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime()),
    }
    self._beats = self._generation = 0
    self._renewed = 0.0
    self._lost = ''
    self._mutex = threading.Lock()
    self._over = threading.Event()

  def take(self, generation: int) -> str | None:
    """Writes this owner over that generation; else says who has it."""
    asked = _clock()
    self._beats += 1
    text = json.dumps({**self._owner, 'beat': self._beats})
    new = self._file.write(text.encode() + b'\n', generation)
    if new is None:
      content, new = self._file.read()
      # The answer to a write may be lost, and its repetition then meet itself.
      if _owner(content).get('id') != self._owner['id']:
        return _who(content) if new else 'somebody who has removed its lock'
    self._generation, self._renewed = new, asked
    return None

  def beat(self) -> None:
    """Renews it until it is released or lost."""
    while not self._over.wait(self._expiry / _BEATS):
      with contextlib.suppress(gcs.UnreachableError):  # `check` will say so
        self._renew()

  def _renew(self) -> None:
    with self._mutex:
      if self._lost or self._over.is_set():
        return
      other = self.take(self._generation)
      if other is not None:
        self._lost = (
          f'this run was silent for too long (paused, or cut off from the '
          f'bucket), and {other} has taken over {self._path.parent}; it stops '
          'here and writes nothing more'
        )

  def check(self) -> None:
    """See the base class."""
    if not self._lost and _clock() - self._renewed > 0.75 * self._expiry:
      try:
        self._renew()
      except gcs.UnreachableError as error:
        raise errors.RunError(
          f'cannot renew the lock of {self._path.parent}, so another run may '
          f'take it over: {error}; start again when the bucket can be reached'
        ) from error
    if self._lost:
      raise errors.RunError(self._lost)

  def release(self) -> None:
    """Frees it at once where that is possible; else it expires."""
    self._over.set()
    with self._mutex, contextlib.suppress(gcs.UnreachableError):
      if not self._lost:
        self._file.delete(self._generation)


def _owner(content: bytes) -> dict[str, Any]:
  try:
    found = json.loads(content)
  except ValueError:
    return {}
  return found if isinstance(found, dict) else {}


def _who(content: bytes) -> str:
  owner = _owner(content)
  return (
    f'process {owner.get("pid", "?")} on {owner.get("host", "?")} '
    f'(since {owner.get("since", "?")})'
  )


def _clock() -> float:
  """Seconds of a clock that only grows, also while the machine sleeps."""
  return time.clock_gettime(
    getattr(time, 'CLOCK_BOOTTIME', time.CLOCK_MONOTONIC)
  )
