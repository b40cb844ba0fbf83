"""Whether a run waits for its data."""

from collections.abc import Mapping
from concurrent import futures
import time
from typing import Any

import jax

MOST = 0.1  # of the time may be spent waiting before a run says so
STRETCH_S = 20.0  # seconds of steps that are judged together
_LARGER = 1.3  # times the size that is needed, from where scaling pays


class Device:
  """When the devices have nothing to do.

  The host gets the next batches while the devices still work on the last ones:
  of its wait only what is left when they are done costs time.
  """

  def __init__(self) -> None:
    """Starts with nothing to do."""
    self._thread = futures.ThreadPoolExecutor(1)
    self._done: futures.Future[float] | None = None

  def works_on(self, outputs: Any) -> None:
    """Takes in what was started last."""
    self._done = self._thread.submit(_done_at, outputs)

  def idle(self, began: float, now: float) -> float:
    """Seconds without work, of those from `began` until `now`."""
    if self._done is None:
      return now - began
    if not self._done.done():
      return 0.0
    return now - min(now, max(began, self._done.result()))

  def close(self) -> None:
    """Ends its thread, once the devices are done."""
    self._thread.shutdown(wait=False)


def _done_at(outputs: Any) -> float:
  jax.block_until_ready(outputs)
  return time.monotonic()


class Stretch:
  """What share of its steps' time a run waits, stretch by stretch."""

  def __init__(self) -> None:
    """The first dispatch does not count: processes start, XLA compiles."""
    self._before: tuple[float, float] | None = None

  def share(self, seconds: Mapping[str, float]) -> float:
    """Of the stretch that ends now; 0 while it goes on.

    Args:
      seconds: of a `metrics.Clock`, after a dispatch.
    """
    now = (seconds.get('waiting for data', 0.0), seconds.get('training', 0.0))
    if self._before is None:
      self._before = now
    waited, worked = (b - a for a, b in zip(self._before, now, strict=True))
    if waited + worked < STRETCH_S:
      return 0.0
    self._before = now
    return waited / (waited + worked)


def text(share: float) -> str:
  """Returns the line that a run says, for a share of the time in 0..1."""
  return (
    f'the devices wait for data {100 * share:.0f}% of the time; docs/data.md '
    'says what helps'
  )
