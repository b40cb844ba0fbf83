"""What a run tells: to a person, to metrics.jsonl and to TensorBoard."""

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
  """Running means of scalars."""

  def __init__(self) -> None:
    """Starts empty."""
    self._sums: dict[str, float] = {}
    self.count = 0

  def add(self, values: Mapping[str, np.ndarray]) -> None:
    """Adds one value of every scalar for each of S steps, [S] each."""
    self.count += len(next(iter(values.values())))
    for name, value in values.items():
      total = float(np.sum(value, dtype=np.float64))
      self._sums[name] = self._sums.get(name, 0.0) + total

  def take(self) -> dict[str, float]:
    """The means since the last call."""
    means = {name: total / self.count for name, total in self._sums.items()}
    self._sums, self.count = {}, 0
    return means


class Speed:
  """Images a second, from the second reading on: the first one compiles."""

  def __init__(self) -> None:
    """Starts with the first reading."""
    self._since: float | None = None
    self._images = 0

  def add(self, images: int) -> None:
    """Takes in that `images` more are done now."""
    if self._since is None:
      self._since = time.monotonic()
    else:
      self._images += images

  def text(self, left: int) -> str:
    """'1234 images/s, ETA 5 min 02 s' for `left` images still to do."""
    seconds = time.monotonic() - (self._since or math.inf)
    if not self._images or seconds <= 0:
      return 'compiling'
    rate = self._images / seconds
    return f'{rate:.0f} images/s, ETA {duration(left / rate)}'


class Clock:
  """Seconds by what a run spends them on, over all its interruptions."""

  def __init__(self) -> None:
    """Starts with nothing spent."""
    self.seconds: dict[str, float] = {}

  def add(self, what: str, seconds: float) -> None:
    """Adds to what is spent."""
    self.seconds[what] = self.seconds.get(what, 0.0) + seconds

  @contextlib.contextmanager
  def spent(self, what: str) -> Iterator[None]:
    """Adds the time until it is left."""
    began = time.monotonic()
    try:
      yield
    finally:
      self.add(what, time.monotonic() - began)

  def record(self) -> dict[str, float]:
    """For metrics.jsonl: 'time/<what>'."""
    return {f'time/{k}': round(v, 3) for k, v in self.seconds.items()}

  def resume(self, record: Mapping[str, float]) -> None:
    """Goes on from what `record` gave."""
    for name, value in record.items():
      if name.startswith('time/'):
        self.add(name.removeprefix('time/'), value)

  def text(self) -> str:
    """'3 min 05 s: training 70%, compiling 20%, evaluating 10%'."""
    total = sum(self.seconds.values()) or 1.0
    most = sorted(self.seconds.items(), key=lambda item: -item[1])
    shares = [f'{k} {100 * v / total:.0f}%' for k, v in most]
    return f'{duration(total)}: {", ".join(shares)}'


def losses_text(values: Mapping[str, float]) -> str:
  """'total 1.23 = ce 2.30 (0.23) + kd 1.25 (1.00)': raw, then weighted."""
  terms = [
    f'{name.removeprefix("loss/")} {value:.4g} '
    f'({values[name.replace("loss/", "weighted/", 1)]:.3g})'
    for name, value in values.items()
    if name.startswith('loss/')
  ]
  return f'total {values["total"]:.4g} = {" + ".join(terms)}'


def accuracy_text(records: Sequence[Mapping[str, Any]]) -> str:
  """' | test top-1 71.20%, best 71.90%' of the evaluations, or nothing."""
  text = ''
  for split in ('val', 'test'):
    name = f'{split}/top1'
    found = [record[name] for record in records if name in record]
    if found:
      text += f' | {split} top-1 {found[-1]:.2f}%, best {max(found):.2f}%'
  return text


class Reporter:
  """Says what happens, on the screen and in the run's folder.

  Of several processes only process 0 says anything.
  """

  def __init__(self, folder: run_dir.Folder, label: str = ''):
    """Opens the run's log.

    Args:
      folder: of the run.
      label: begins every line on the screen.
    """
    self._folder, self._label = folder, f'[{label}] ' if label else ''
    self.records = run_dir.Records(folder)
    self._board: tensorboardX.SummaryWriter | None = None
    self._events: tempfile.TemporaryDirectory[str] | None = None
    self._tty = sys.stdout.isatty()
    self._shown = self._printed = 0.0

  def line(self, text: str, *, important: bool = True) -> None:
    """A line for the log and, at most every ten seconds unless it is
    important, for the screen."""
    if not distributed.is_first():
      return
    clear = '\r\x1b[K' if self._tty else ''
    if important or time.monotonic() - self._printed > 10:
      self._printed = time.monotonic()
      for row in text.splitlines() or ['']:
        print(f'{clear}{self._label}{row}', flush=True)
    self._folder.append(
      'log.txt', f'{time.strftime("%Y-%m-%d %H:%M:%S")} {text}\n'
    )

  def progress(self, text: str) -> None:
    """Replaces the last line of a terminal, at most five times a second."""
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
    """Forgets what was logged after `step`.

    Returns:
      The records that were there, and those of them up to `step`.
    """
    if not distributed.is_first():
      return [], []
    known = self.records.read()
    place = str(self._folder.path)
    if gcs.is_bucket(place):  # events grow here and are then copied
      self._events = tempfile.TemporaryDirectory(prefix='kd_jax-events-')
      place = self._events.name
    self._board = tensorboardX.SummaryWriter(
      place, purge_step=step + 1 if step else 0
    )
    return known, self.records.truncate(step)

  def record(self, step: int, values: Mapping[str, float]) -> None:
    """Adds a line to metrics.jsonl and scalars to TensorBoard."""
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
    """Ends the TensorBoard file."""
    if self._board is not None:
      self._board.close()
    if self._events is not None:
      self._events.cleanup()


def first_bad(
  values: Mapping[str, np.ndarray], first_step: int
) -> tuple[int, str, float] | None:
  """The first step whose scalars are not all finite, with name and value.

  Of one step's scalars a raw loss is named before what follows from it.

  Args:
    values: [S] each, of S consecutive steps.
    first_step: the first one's number.
  """
  order = sorted(values, key=lambda name: not name.startswith('loss/'))
  bad = [
    (int(np.flatnonzero(~np.isfinite(values[name]))[0]), i, name)
    for i, name in enumerate(order)
    if not np.isfinite(values[name]).all()
  ]
  if not bad:
    return None
  at, _, name = min(bad)
  return first_step + at, name, float(values[name][at])


def duration(seconds: float) -> str:
  """Seconds as '42 s', '3 min 05 s' or '2 h 07 min'."""
  if not math.isfinite(seconds):
    return '?'
  whole = round(seconds)
  if whole < 60:
    return f'{whole} s'
  if whole < 3600:
    return f'{whole // 60} min {whole % 60:02d} s'
  return f'{whole // 3600} h {whole % 3600 // 60:02d} min'
