"""What a run shows on stdout: lines, and in a terminal one line of progress.

A reader that has left (`| head`) and a disk that is full end no run: what
cannot be shown is given up.
"""

from collections.abc import Iterator
import contextlib
import errno
import os
import sys
import threading
import time
from typing import TextIO

from kd_jax import errors

REDRAWN_S = 0.2  # seconds between two drawings of the progress line
SILENCE_S = 60.0  # seconds after which the progress is a line of a file
_COLUMNS = 80  # of a terminal that does not say how wide it is
_CLEAR = '\r\x1b[K'


# The errors of a pipe without a reader and of a terminal that is gone.
_GONE = (errno.EPIPE, errno.EIO)


class Line:
  """The line of progress of a terminal, which several screens may share.

  Attributes:
    lock: Held while something is shown, since a thread prints too.
    drawn: The time of the last progress line; 0 if there is none.
    printed: The time of the last line.
  """

  def __init__(self) -> None:
    """Begins without progress."""
    self.lock = threading.RLock()
    self.drawn, self.printed = 0.0, time.monotonic()


class Screen:
  """The standard output of a run.

  A terminal has one line of progress below the other lines, which is redrawn.
  A file or a pipe gets the progress as a line of its own whenever nothing was
  printed for a minute.
  """

  def __init__(self, label: str = '', line: Line | None = None):
    """Prints nothing yet.

    Args:
      label: A label in front of every line; '' for none.
      line: The line of progress that it shares with other screens, of runs that
        train together: each replaces what another has shown; None for its own.
    """
    self._label = f'[{label}] ' if label else ''
    self._tty = _is_terminal()
    self._progress = ''
    self._line = line or Line()

  def line(self, text: str) -> None:
    """Prints the lines of a text, as `errors.lines` shows them."""
    with self._line.lock:
      self.clear()
      for text_line in errors.lines(text).split('\n'):
        show(f'{self._label}{text_line}')
      self._line.printed = time.monotonic()

  def progress(self, text: str) -> None:
    """Replaces the progress; a terminal shows it at most 5 times a second."""
    with self._line.lock:
      self._progress = text
      now = time.monotonic()
      if self._tty and now - self._line.drawn > REDRAWN_S:
        self._line.drawn = now
        line = fitted(f'{self._label}{errors.line(text)}', columns())
        show(f'{_CLEAR}{line}', end='')

  def clear(self) -> None:
    """Removes the progress line from a terminal."""
    with self._line.lock:
      if self._line.drawn:
        show(_CLEAR, end='')
        self._line.drawn = 0.0

  @contextlib.contextmanager
  def watched(self) -> Iterator[None]:
    """Returns a context manager in which no minute of a file is silent."""
    if self._tty:
      try:
        yield
      finally:
        self.clear()
      return
    ended = threading.Event()
    thread = threading.Thread(
      target=self._break_silence, args=(ended,), daemon=True
    )
    thread.start()
    try:
      yield
    finally:
      ended.set()
      thread.join()

  def _break_silence(self, ended: threading.Event) -> None:
    while not ended.wait(max(0.0, self._silent_until() - time.monotonic())):
      with self._line.lock:
        if time.monotonic() >= self._silent_until():
          self.line(self._progress or 'starting')

  def _silent_until(self) -> float:
    return self._line.printed + SILENCE_S


def show(text: str, *, end: str = '\n', error: bool = False) -> None:
  """Prints a text that only informs, and gives it up where it is refused.

  Args:
    text: The text.
    end: What follows it.
    error: Whether it goes to stderr and not to stdout.
  """
  stream = sys.stderr if error else sys.stdout
  if stream is None or getattr(stream, 'closed', False):
    return
  try:
    print(text, end=end, file=stream, flush=True)
  except OSError as refused:
    if refused.errno in _GONE:
      _abandon(stream)


def settle() -> None:
  """Gives up what stdout and stderr still refuse, before the process ends.

  The interpreter would end with 120 in place of the command's exit code.
  """
  for stream in (sys.stdout, sys.stderr):
    try:
      stream.flush()
    except OSError:
      _abandon(stream)


def open_missing() -> None:
  """Opens standard streams that the process began without, on /dev/null.

  Else the next files take their numbers, and get what libraries print.
  """
  for number in range(3):
    try:
      os.fstat(number)
    except OSError:
      os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
  sys.stdout = sys.stdout or open(os.devnull, 'w')  # noqa: SIM115
  sys.stderr = sys.stderr or open(os.devnull, 'w')  # noqa: SIM115


def _abandon(stream: TextIO) -> None:
  """Lets a stream lead to /dev/null, with what it still holds."""
  with contextlib.suppress(OSError):  # it has no descriptor
    number = stream.fileno()
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, number)
    os.close(null)


def _is_terminal() -> bool:
  """Returns whether stdout is a terminal."""
  stream = sys.stdout
  return bool(stream and not stream.closed and stream.isatty())


def columns() -> int:
  """Returns the width of the terminal, in characters."""
  try:
    known = os.get_terminal_size(sys.stdout.fileno()).columns
  except (OSError, ValueError):  # stdout was replaced by something else
    known = 0
  return known or _COLUMNS


def fitted(text: str, width: int) -> str:
  """Returns a text that leaves the last column of a terminal's line free.

  A character in the last column would move some terminals to the next line,
  which a redrawing would leave behind.

  Args:
    text: The text, without line ends.
    width: The width of the terminal, in characters.
  """
  most = max(1, width - 1)
  if len(text) <= most:
    return text
  return text[: max(0, most - 3)] + '...'[:most]
