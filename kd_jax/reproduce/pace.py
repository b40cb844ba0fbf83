"""How long a run still takes, told from its first dispatches."""

from collections.abc import Callable
import statistics
import time

from kd_jax.training import run

_COMPILING = 2  # the first intervals between dispatches, which compile
_LEAST = 5  # intervals that an estimate is made from
# Evaluations and checkpoints, which the median of the intervals leaves out.
_MARGIN = 1.1


class Budget:
  """The time that a command may take."""

  def __init__(
    self, minutes: float | None, clock: Callable[[], float] = time.monotonic
  ):
    """Starts the time.

    Args:
      minutes: The time in minutes, of which the end is kept for saving; None
        sets no limit.
      clock: Returns seconds.
    """
    self._clock = clock
    seconds = float('inf') if minutes is None else minutes * 60
    self._until = clock() + seconds - min(30.0, 0.15 * seconds)

  def left_s(self) -> float:
    """Returns the seconds that are left; not above 0 when the time is over."""
    return self._until - self._clock()


class Pace:
  """Estimates the rest of a training from the times of its dispatches.

  Attributes:
    intervals: How many intervals between dispatches of this network it saw.
  """

  def __init__(self, clock: Callable[[], float] = time.monotonic):
    """Starts with no dispatch.

    Args:
      clock: Returns seconds.
    """
    self._clock = clock
    self.intervals = 0
    self._at: run.Progress | None = None
    self._time = 0.0
    self._paces: list[float] = []  # seconds a step, of each interval

  def see(self, at: run.Progress) -> None:
    """Notes that a dispatch begins.

    Args:
      at: Where the run is. Another folder is another network, such as the
        student after its teacher, and is estimated from its own dispatches.
    """
    now, before = self._clock(), self._at
    if before is None or before.folder != at.folder:
      self.intervals, self._paces = 0, []
    elif at.step > before.step:
      self.intervals += 1
      if self.intervals > _COMPILING and len(self._paces) < _LEAST:
        self._paces.append((now - self._time) / (at.step - before.step))
    self._at, self._time = at, now

  def rest_s(self) -> float | None:
    """Returns the seconds to the last step; None before it can be told."""
    if self._at is None or len(self._paces) < _LEAST:
      return None
    steps = self._at.total - self._at.step
    return _MARGIN * steps * statistics.median(self._paces)
