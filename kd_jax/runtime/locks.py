"""Locks between the processes of one machine, or of all users of a bucket.

On a disk the operating system keeps the lock and frees it when the process
ends, however it ends.

In a bucket the lock is an object that names its holder. The holder rewrites it
every few seconds (the beat). Each write is conditional on the generation that
the writer last saw, so of two concurrent writers one fails and is told so:

- A process that finds no lock creates one. A process that finds a lock watches
  it. If the lock changes, its holder is alive. If it stays unchanged for a
  whole expiry, by the watcher's clock, the holder is dead (killed, cut off or
  asleep), and the watcher takes the lock over. Clocks of different machines
  are never compared, so they need not be right.
- The holder trusts its lock for 3/4 of an expiry after it requested the last
  renewal. After that it renews the lock before it writes anything, and stops
  for good if another process has taken the lock. A watcher waits for a whole
  expiry from a moment at which it saw the renewal done, so the two never write
  at the same time. (A write already in flight when the holder was paused
  cannot be recalled.)
"""

from collections.abc import Callable, Iterator
import contextlib
import fcntl
import json
import os
import socket
import threading
import time
from typing import IO, Any
import uuid

from etils import epath

from kd_jax import errors
from kd_jax.runtime import gcs, screen

# Seconds without a beat after which a bucket's lock counts as abandoned.
_EXPIRY = 60.0
_LOOK_S = 0.2  # seconds between two looks at a file that is locked

# Beats per expiry.
_BEATS = 6


class Held:
  """A lock that this process holds."""

  def check(self) -> None:
    """Checks that the lock is still held; call it before each guarded write.

    Raises:
      RunError: Another process holds the lock now, or may hold it.
    """


@contextlib.contextmanager
def hold(
  path: epath.Path,
  *,
  wait: bool,
  say: Callable[[str], None] = screen.show,
  waiting: Callable[[], None] = lambda: None,
  expiry: float = _EXPIRY,
) -> Iterator[Held]:
  """Returns a context manager that holds a lock.

  Args:
    path: The path of the lock's file.
    wait: Whether to wait for a process that holds the lock; otherwise the lock
      must be free.
    say: Called with a line of text before waiting.
    waiting: Called again and again while it waits; what it raises ends that.
    expiry: In a bucket, seconds after which a silent holder counts as dead.
      All processes must use the same value.

  Raises:
    UsageError: Another process holds the lock and `wait` is false, or the file
      cannot be written.
  """
  if not gcs.is_bucket(path):
    with _file_lock(path, wait, say, waiting):
      yield Held()
    return
  try:
    lease = _acquired(path, wait, say, waiting, expiry)
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
  path: epath.Path,
  wait: bool,
  say: Callable[[str], None],
  waiting: Callable[[], None],
) -> Iterator[None]:
  try:
    file = open(os.fspath(path), 'a')  # noqa: SIM115  (closed below)
  except OSError as error:
    raise errors.UsageError(
      f'cannot write in {path.parent}: {error.strerror}'
    ) from error
  with file:
    if not _taken(file):
      if not wait:
        raise errors.UsageError(
          f'another run is live in {path.parent}; wait for it, or give another '
          '--workdir'
        )
      say(f'waiting for another run in {path.parent}')
      while not _taken(file):
        waiting()
        time.sleep(_LOOK_S)
    yield


def _taken(file: IO[str]) -> bool:
  """Takes the lock of a file, if it is free, and returns whether it was."""
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    return False
  return True


def _acquired(
  path: epath.Path,
  wait: bool,
  say: Callable[[str], None],
  waiting: Callable[[], None],
  expiry: float,
) -> '_Lease':
  """Takes the lock of a bucket once it is free or its holder is dead."""
  lock_object, lease = gcs.Object(path), _Lease(path, expiry)
  seen, since = 0, 0.0  # the watched generation and when it was first seen
  while True:
    read_at = _clock()
    content, generation = lock_object.read()
    silent = generation == seen and read_at - since >= expiry
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
    waiting()
    time.sleep(expiry / _BEATS / 4)


class _Lease(Held):
  """A lock in a bucket, which expires unless it is renewed."""

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
    """Writes this process into the lock, if it still has that generation.

    Args:
      generation: The generation that was seen; 0 if there was no lock.

    Returns:
      None if the lock was taken, else a description of its holder.
    """
    requested_at = _clock()
    self._beats += 1
    text = json.dumps({**self._owner, 'beat': self._beats})
    new_generation = self._file.write(text.encode() + b'\n', generation)
    if new_generation is None:
      content, new_generation = self._file.read()
      # If the answer to a write was lost, gcsfs repeats the write, and the
      # repetition fails on the generation that the first write made.
      if _owner(content).get('id') != self._owner['id']:
        return (
          _who(content)
          if new_generation
          else 'somebody who has removed its lock'
        )
    self._generation, self._renewed = new_generation, requested_at
    return None

  def beat(self) -> None:
    """Renews the lock regularly until it is released or lost."""
    while not self._over.wait(self._expiry / _BEATS):
      with contextlib.suppress(gcs.UnreachableError):  # `check` reports it
        self._renew()

  def _renew(self) -> None:
    with self._mutex:
      if self._lost or self._over.is_set():
        return
      holder = self.take(self._generation)
      if holder is not None:
        self._lost = (
          f'this run was silent for too long (paused, or cut off from the '
          f'bucket), and {holder} has taken over {self._path.parent}; it stops '
          'here and writes nothing more'
        )

  def check(self) -> None:
    """Renews the lock if it is about to expire; see `Held.check`."""
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
    """Frees the lock; if the bucket cannot be reached, the lock expires."""
    self._over.set()
    with self._mutex, contextlib.suppress(gcs.UnreachableError):
      if not self._lost:
        self._file.delete(self._generation)


def _owner(content: bytes) -> dict[str, Any]:
  try:
    owner = json.loads(content)
  except ValueError:
    return {}
  return owner if isinstance(owner, dict) else {}


def _who(content: bytes) -> str:
  owner = _owner(content)
  return (
    f'process {owner.get("pid", "?")} on {owner.get("host", "?")} '
    f'(since {owner.get("since", "?")})'
  )


def _clock() -> float:
  """Returns seconds of a monotonic clock that includes suspended time."""
  return time.clock_gettime(
    getattr(time, 'CLOCK_BOOTTIME', time.CLOCK_MONOTONIC)
  )
