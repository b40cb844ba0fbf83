"""The logs of a run: the screen, log.txt, metrics.jsonl and TensorBoard."""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import math
import pathlib
import sys
import tempfile
import time
from typing import Any

import numpy as np
import tensorboardX

from kd_jax.runtime import distributed, gcs, run_dir


class Means:
  """Running means of named scalars."""

  def __init__(self) -> None:
    """Starts with no values."""
    self._sums: dict[str, float] = {}
    self.count = 0

  def add(self, values: Mapping[str, np.ndarray]) -> None:
    """Adds the scalars of S steps.

    Args:
      values: The values of each scalar by name, [S] each.
    """
    self.count += len(next(iter(values.values())))
    for name, value in values.items():
      total = float(np.sum(value, dtype=np.float64))
      self._sums[name] = self._sums.get(name, 0.0) + total

  def take(self) -> dict[str, float]:
    """Returns the means since the last call, and starts again."""
    means = {name: total / self.count for name, total in self._sums.items()}
    self._sums, self.count = {}, 0
    return means


class Speed:
  """A meter of images per second, which leaves out the time of compiling.

  The clock starts with the first call of `add`, because the first dispatch
  compiles.
  """

  def __init__(self) -> None:
    """Leaves the clock stopped until the first call of `add`."""
    self._since: float | None = None
    self._images = 0

  def add(self, images: int) -> None:
    """Records that `images` more images are done."""
    if self._since is None:
      self._since = time.monotonic()
    else:
      self._images += images

  def text(self, left: int) -> str:
    """Returns speed and time left: '1234 images/s, ETA 5 min 02 s'.

    Args:
      left: The number of images still to process.
    """
    seconds = time.monotonic() - (self._since or math.inf)
    if not self._images or seconds <= 0:
      return 'compiling'
    rate = self._images / seconds
    return f'{rate:.0f} images/s, ETA {duration(left / rate)}'


class Clock:
  """A clock of the seconds that a run spends on each activity.

  Its state is saved with the metrics, so the sums cover all starts of a run.

  Attributes:
    seconds: The seconds spent by activity.
  """

  def __init__(self) -> None:
    """Starts with no activities."""
    self.seconds: dict[str, float] = {}

  def add(self, what: str, seconds: float) -> None:
    """Adds seconds to the activity `what`."""
    self.seconds[what] = self.seconds.get(what, 0.0) + seconds

  @contextlib.contextmanager
  def spent(self, what: str) -> Iterator[None]:
    """Returns a context manager that adds its duration to `what`."""
    began = time.monotonic()
    try:
      yield
    finally:
      self.add(what, time.monotonic() - began)

  def record(self) -> dict[str, float]:
    """Returns the seconds as a record of metrics.jsonl, by 'time/<what>'."""
    return {f'time/{k}': round(v, 3) for k, v in self.seconds.items()}

  def resume(self, record: Mapping[str, float]) -> None:
    """Adds the seconds of an earlier start of the run.

    Args:
      record: A record with the fields of `self.record()`; others are ignored.
    """
    for name, value in record.items():
      if name.startswith('time/'):
        self.add(name.removeprefix('time/'), value)

  def text(self) -> str:
    """Returns '3 min 05 s: training 70%, compiling 20%, evaluating 10%'."""
    total = sum(self.seconds.values()) or 1.0
    activities = sorted(self.seconds.items(), key=lambda item: -item[1])
    shares = [f'{k} {100 * v / total:.0f}%' for k, v in activities]
    return f'{duration(total)}: {", ".join(shares)}'


def losses_text(values: Mapping[str, float]) -> str:
  """Returns 'total 1.23 = ce 2.30 (0.23) + kd 1.25 (1.00)'.

  Args:
    values: The scalars of a step, with the raw losses as 'loss/<name>', the
      weighted losses (shown in parentheses) as 'weighted/<name>', and 'total'.
  """
  terms = [
    f'{name.removeprefix("loss/")} {value:.4g} '
    f'({values[name.replace("loss/", "weighted/", 1)]:.3g})'
    for name, value in values.items()
    if name.startswith('loss/')
  ]
  return f'total {values["total"]:.4g} = {" + ".join(terms)}'


def accuracy_text(
  records: Sequence[Mapping[str, Any]], name: str, text: str
) -> str:
  """Returns ' | test top-1 71.20%, best 71.90%', for each evaluated split.

  Args:
    records: The records of the evaluations, oldest first.
    name: The metric's name in them, such as 'top1'.
    text: Its name for a person, such as 'top-1'.
  """
  said = ''
  for split in ('val', 'test'):
    key = f'{split}/{name}'
    values = [record[key] for record in records if key in record]
    if values:
      said += f' | {split} {text} {values[-1]:.2f}%, best {max(values):.2f}%'
  return said


class Reporter:
  """A log of a run, which goes to the screen and to the run's folder.

  Only process 0 writes.

  Attributes:
    records: The records of metrics.jsonl.
  """

  def __init__(self, folder: run_dir.Folder, label: str = ''):
    """Opens the run's log.

    Args:
      folder: The run's folder.
      label: A label in front of every line on the screen; '' for none.
    """
    self._folder, self._label = folder, f'[{label}] ' if label else ''
    self.records = run_dir.Records(folder)
    self._board: tensorboardX.SummaryWriter | None = None
    self._events: tempfile.TemporaryDirectory[str] | None = None
    self._tty = sys.stdout.isatty()
    self._shown = self._printed = 0.0

  def line(self, text: str, *, important: bool = True) -> None:
    """Writes a line to log.txt and to the screen.

    Args:
      text: The line.
      important: Whether to show it always; the screen shows other lines at
        most every ten seconds.
    """
    if not distributed.is_first():
      return
    clear = '\r\x1b[K' if self._tty else ''
    if important or time.monotonic() - self._printed > 10:
      self._printed = time.monotonic()
      for text_line in text.splitlines() or ['']:
        print(f'{clear}{self._label}{text_line}', flush=True)
    self._folder.append(
      'log.txt', f'{time.strftime("%Y-%m-%d %H:%M:%S")} {text}\n'
    )

  def progress(self, text: str) -> None:
    """Replaces a terminal's last line, at most five times per second."""
    if (
      self._tty
      and distributed.is_first()
      and time.monotonic() - self._shown > 0.2
    ):
      self._shown = time.monotonic()
      print(f'\r\x1b[K{self._label}{text}', end='', flush=True)

  def resume(
    self, step: int
  ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Drops the records after `step` and opens the TensorBoard file.

    Args:
      step: The step from which the run continues.

    Returns:
      All records before the call, and those of them up to `step`.
    """
    if not distributed.is_first():
      return [], []
    records = self.records.read()
    events_folder = str(self._folder.path)
    # A bucket cannot append: events are written locally and then copied.
    if gcs.is_bucket(events_folder):
      self._events = tempfile.TemporaryDirectory(prefix='kd_jax-events-')
      events_folder = self._events.name
    self._board = tensorboardX.SummaryWriter(
      events_folder, purge_step=step + 1 if step else 0
    )
    return records, self.records.truncate(step)

  def record(self, step: int, values: Mapping[str, float]) -> None:
    """Writes scalars to metrics.jsonl and to TensorBoard.

    Args:
      step: The number of training steps done.
      values: The scalars by name.
    """
    if not distributed.is_first():
      return
    self.records.append({'step': step, **values})
    if self._board is not None:
      for name, value in values.items():
        self._board.add_scalar(name, value, step)
      self._board.flush()
    if self._events is not None:
      for file in pathlib.Path(self._events.name).iterdir():
        self._folder.write_bytes(file.name, file.read_bytes())

  def close(self) -> None:
    """Closes the TensorBoard file."""
    if self._board is not None:
      self._board.close()
    if self._events is not None:
      self._events.cleanup()


def first_bad(
  values: Mapping[str, np.ndarray], first_step: int
) -> tuple[int, str, float] | None:
  """Returns the first step with a scalar that is not finite, or None.

  Args:
    values: The scalars of S consecutive steps by name, [S] each.
    first_step: The number of the first of these steps.

  Returns:
    The step's number, and the name and value of the scalar. If there are
    several in that step, a raw loss is named before scalars computed from it.
  """
  order = sorted(values, key=lambda name: not name.startswith('loss/'))
  bad = [
    (int(np.flatnonzero(~np.isfinite(values[name]))[0]), i, name)
    for i, name in enumerate(order)
    if not np.isfinite(values[name]).all()
  ]
  if not bad:
    return None
  row, _, name = min(bad)
  return first_step + row, name, float(values[name][row])


def duration(seconds: float) -> str:
  """Returns a duration as '42 s', '3 min 05 s' or '2 h 07 min'.

  Args:
    seconds: The duration in seconds; '?' is returned unless it is finite.
  """
  if not math.isfinite(seconds):
    return '?'
  whole = round(seconds)
  if whole < 60:
    return f'{whole} s'
  if whole < 3600:
    return f'{whole // 60} min {whole % 60:02d} s'
  return f'{whole // 3600} h {whole % 3600 // 60:02d} min'
