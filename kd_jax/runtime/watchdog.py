"""A watchdog that ends a hanging process, which heartbeats do not detect."""

import contextlib
import faulthandler
import math
import os
import sys
import threading
import time

EXIT_CODE = 76
_SPEAKING_S = 2.0  # seconds that stderr may take to accept the last words


class Watchdog:
  """A context manager, which ends the process if it makes no progress.

  It then prints the stacks of all threads and one line to stderr, and exits
  with code 76. The same command resumes from the last checkpoint. A stderr that
  is closed, full or locked loses the words and does not keep the process. (A
  library in C that never returns to Python does: no thread of Python runs then,
  and the other processes end by their heartbeats.)
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

  def rest(self) -> None:
    """Stops watching until the next `beat`, while another one watches."""
    self._last = math.inf

  def _watch(self) -> None:
    while not self._ended.wait(min(1.0, self._seconds / 4)):
      idle = time.monotonic() - self._last
      if idle > self._seconds:
        try:
          self._speak(
            f'kd_jax: nothing was finished for {idle:.0f} s after {self._what} '
            f'({self._key}={self._seconds:g}); ended. The same '
            'command goes on from the last checkpoint\n'
          )
        finally:
          os._exit(EXIT_CODE)

  def _speak(self, line: str) -> None:
    """Writes the stacks and a line to stderr, as far as it accepts them."""
    if sys.__stderr__ is None:  # descriptor 2 was closed, or is another file
      return
    text = _stacks() + line.encode()
    speaker = threading.Thread(target=_write, args=(text,), daemon=True)
    speaker.start()
    speaker.join(_SPEAKING_S)


def _stacks() -> bytes:
  """Returns the stacks of all threads, at most what a pipe holds.

  `faulthandler` keeps the interpreter's lock while it writes: a full stderr
  would stop every thread. A pipe that does not block takes the text instead.
  """
  reading, writing = os.pipe()
  os.set_blocking(writing, False)
  faulthandler.dump_traceback(file=writing, all_threads=True)
  os.close(writing)
  with open(reading, 'rb') as pipe:
    return pipe.read()


def _write(text: bytes) -> None:
  # Not by `sys.stderr`: a thread that hangs may hold its lock.
  with contextlib.suppress(OSError):
    while text:
      text = text[os.write(2, text) :]
