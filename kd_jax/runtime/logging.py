"""The log of a run: the screen, log.txt, metrics.jsonl and other writers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import math
import time
from typing import Any

import numpy as np

from kd_jax import errors
from kd_jax.runtime import (
  distributed,
  durable,
  loggers,
  run_dir,
  screen,
  writers,
)

_WRITTEN_S = 30.0  # seconds from one writing of points to the next


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


class Rate:
  """A meter of images per second, without the first two dispatches.

  The first one compiles, and the second one may be done by the time at which
  the first one is read.
  """

  def __init__(self) -> None:
    """Begins with the first call of `add`."""
    self._since: float | None = None
    self._now, self._images, self._skipped = 0.0, 0, 0

  def add(self, images: int, seconds: float) -> None:
    """Adds images.

    Args:
      images: The number of images that are done since the last call.
      seconds: The seconds spent on training, from any zero.
    """
    if self._since is not None:
      self._images += images
    elif self._skipped:
      self._since = seconds
    else:
      self._skipped += 1
    self._now = seconds

  def value(self) -> float | None:
    """Returns the images per second since the last `take`; None if unknown."""
    if self._since is None or not self._images or self._now <= self._since:
      return None
    return self._images / (self._now - self._since)

  def take(self) -> float | None:
    """Returns the value, and begins the next stretch where this one ends."""
    value = self.value()
    if self._since is not None:
      self._since, self._images = self._now, 0
    return value


class Speed:
  """A meter of a run's images per second, and of the time that is left."""

  def __init__(self) -> None:
    """Begins with the first call of `add`."""
    self._training, self._all = Rate(), Rate()

  def add(self, images: int, seconds: float) -> None:
    """Adds images; see `Rate.add`."""
    self._training.add(images, seconds)
    self._all.add(images, time.monotonic())

  def text(self, left: int) -> str:
    """Returns speed and time left: '1234 images/s, ETA 5 min 02 s'.

    The speed is that of training alone; the time left includes evaluating and
    saving. The text is '' as long as the speed is unknown.

    Args:
      left: The number of images still to process.
    """
    training, everything = self._training.value(), self._all.value()
    if training is None or everything is None:
      return ''
    digits = f'{training:.0f}' if training >= 10 else f'{training:.2g}'
    eta = f', ETA {duration(left / everything)}' if left else ''
    return f'{digits} images/s{eta}'


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

  def move(self, seconds: float, before: str, after: str) -> None:
    """Moves seconds from an activity to another."""
    self.add(before, -seconds)
    self.add(after, seconds)

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
  """Returns 'test top-1 71.20%, best 71.90%', for each evaluated split.

  What averaged parameters reach is added: ', averaged 72.10%'.

  Args:
    records: The records of the evaluations, oldest first.
    name: The metric's name in them, such as 'top1'.
    text: Its name for a person, such as 'top-1'.
  """
  said = []
  for split in ('val', 'test'):
    key = f'{split}/{name}'
    values = [record[key] for record in records if key in record]
    if values:
      said.append(f'{split} {text} {values[-1]:.2f}%, best {max(values):.2f}%')
      key = f'{split}/ema/{name}'
      averaged = [record[key] for record in records if key in record]
      if averaged:
        said[-1] += f', averaged {averaged[-1]:.2f}%'
  return ' | '.join(said)


class Reporter:
  """A log of a run, which goes to the screen, to the run's folder, and further.

  Only process 0 writes. The writers that a user names only inform: one that
  fails is given up, with a line that says so, and the run goes on.

  Attributes:
    records: The records of metrics.jsonl.
  """

  def __init__(
    self,
    folder: run_dir.Folder,
    label: str = '',
    named: Mapping[str, writers.Writer] = {},
    *,
    config: Mapping[str, Any] = {},
    tags: Mapping[str, str] = {},
    line: screen.Line | None = None,
  ):
    """Opens the run's log.

    Args:
      folder: The run's folder.
      label: A label in front of every line on the screen; '' for none.
      named: The writers besides metrics.jsonl's, by name; see `loggers.make`.
      config: What they are told of the run; see `writers.About`.
      tags: See `writers.About`.
      line: See `screen.Screen`.
    """
    self._folder, self._screen = folder, screen.Screen(label, line)
    self.records = run_dir.Records(folder)
    self._about = writers.About(folder, config, tags)
    self._named, self._jsonl = dict(named), writers.Jsonl()
    self._is_open = False
    self._is_new = False  # a value came since the last flush
    self._written = time.monotonic()

  def line(self, text: str, *, important: bool = True) -> None:
    """Writes a line to log.txt and to the screen.

    Args:
      text: The line, which is shown as `errors.line` does.
      important: Whether the screen shows it; log.txt has every line.
    """
    self._write(errors.line(text), important)

  def lines(self, text: str) -> None:
    """Writes a text of several lines, each as `line` does."""
    self._write(errors.lines(text), True)

  def _write(self, text: str, important: bool) -> None:
    if not distributed.is_first():
      return
    if important:
      self._screen.line(text)
    now = time.strftime('%Y-%m-%d %H:%M:%S')
    with contextlib.suppress(durable.Refused):  # it only informs
      self._folder.append('log.txt', f'{now} {text}\n')

  def progress(self, text: str) -> None:
    """Shows the progress; see `screen.Screen`."""
    if distributed.is_first():
      self._screen.progress(text)

  def watched(self) -> contextlib.AbstractContextManager[None]:
    """Returns a context manager in which the progress is shown in time."""
    first = distributed.is_first()
    return self._screen.watched() if first else contextlib.nullcontext()

  def resume(
    self, step: int
  ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Drops the records after `step` and opens the writers.

    Args:
      step: The step from which the run continues.

    Returns:
      All records before the call, with points, and the records up to `step`,
      without points.
    """
    if not distributed.is_first():
      return [], []
    records = self.records.read(points=True)
    past = [record for record in records if record['step'] <= step]
    self._jsonl.open(self._about, step, past)
    self._is_open = True
    self._each(lambda writer: writer.open(self._about, step, past))
    return records, [r for r in past if not run_dir.is_point(r)]

  def record(self, step: int, values: Mapping[str, float]) -> None:
    """Writes scalars to metrics.jsonl and to the other writers.

    Args:
      step: The number of training steps done.
      values: The scalars by name.
    """
    if not distributed.is_first():
      return
    self._add(step, values)
    self.flush()

  def point(self, step: int, values: Mapping[str, float]) -> None:
    """Writes scalars as `record` does, but some seconds later.

    They are in the files before the next record is.

    Args:
      step: The number of training steps done.
      values: The scalars by name.
    """
    if not distributed.is_first():
      return
    self._add(step, values)
    if time.monotonic() - self._written > _WRITTEN_S:
      self.flush()

  def _add(self, step: int, values: Mapping[str, float]) -> None:
    self._is_new = True
    self._jsonl.scalars(step, values)
    self._each(lambda writer: writer.scalars(step, values))

  def flush(self) -> None:
    """Writes the points that wait; in process 0 alone there are any."""
    if not self._is_new:
      return
    self._is_new, self._written = False, time.monotonic()
    self._jsonl.flush()
    self._each(lambda writer: writer.flush())

  def close(self, result: Mapping[str, Any] | None = None) -> None:
    """Writes the last points, and closes the writers; once is enough.

    Args:
      result: The content of result.json; None if the run stopped before.
    """
    if not self._is_open:
      return
    self._is_open = False
    try:
      self._jsonl.close(result)
    finally:
      self._each(lambda writer: writer.close(result))

  def _each(self, what: Callable[[writers.Writer], None]) -> None:
    """Calls a function with each named writer; one that fails is given up."""
    for name, writer in list(self._named.items()):
      try:
        what(writer)
      except Exception as error:
        del self._named[name]
        why = error if isinstance(error, loggers.Failed) else None
        self.line(
          f'logger {name} is given up: {why or loggers.text(error)}; the run '
          'goes on, and metrics.jsonl has every value'
        )


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
