"""A watchdog that ends a hanging process, which heartbeats do not detect."""

import faulthandler
import os
import sys
import threading
import time

EXIT_CODE = 76


class Watchdog:
  """A context manager, which ends the process if it makes no progress.

  It then prints the stacks of all threads and one line to stderr, and exits
  with code 76. The same command resumes from the last checkpoint.
  """

  def __init__(self, seconds: float, key: str = 'seconds'):
    """Stores the limit; `__enter__` starts the watch.

    Args:
      seconds: The most seconds between two calls of `beat`, which include
        compiling, evaluating and saving; 0 disables the watchdog.
      key: What the limit is called in the message.
    """
    self._seconds, self._key = seconds, key
    self._last, self._what = time.monotonic(), 'it started'
    self._ended = threading.Event()
    self._thread = threading.Thread(target=self._watch, daemon=True)

  def __enter__(self) -> 'Watchdog':
    """Starts the watch."""
    if self._seconds:
      self.beat(self._what)
      self._thread.start()
    return self

  def __exit__(self, *raised: object) -> None:
    """Stops the watch and waits for its thread."""
    self._ended.set()
    if self._seconds:
      self._thread.join()

  def beat(self, what: str) -> None:
    """Records progress: `what`, such as 'step 12', is finished."""
    self._what, self._last = what, time.monotonic()

  def _watch(self) -> None:
    while not self._ended.wait(min(1.0, self._seconds / 4)):
      idle = time.monotonic() - self._last
      if idle > self._seconds:
        faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
        print(
          f'kd_jax: nothing was finished for {idle:.0f} s after {self._what} '
          f'({self._key}={self._seconds:g}); ended. The same '
          'command goes on from the last checkpoint',
          file=sys.stderr,
          flush=True,
        )
        os._exit(EXIT_CODE)
