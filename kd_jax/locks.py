"""Locks between processes of one machine."""

from collections.abc import Callable, Iterator
import contextlib
import fcntl
import os

from etils import epath

from kd_jax import errors


@contextlib.contextmanager
def hold(
  path: epath.Path, *, wait: bool, say: Callable[[str], None] = print
) -> Iterator[None]:
  """Keeps other processes out while it is held.

  The operating system frees it when the process ends, however it ends. In a
  bucket there are no such locks: nothing is held.

  Args:
    path: of the lock's file.
    wait: wait for a process that holds it, or refuse.
    say: tells that it waits.

  Raises:
    UsageError: where another process holds it, or the file cannot be made.
  """
  if '://' in str(path):
    yield
    return
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
