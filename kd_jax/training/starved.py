"""Whether a run waits for its data."""

from collections.abc import Mapping
from concurrent import futures
import time
from typing import Any

import jax

MOST = 0.1  # the share of waiting from which a run warns
STRETCH_S = 20.0  # seconds of steps over which the share is measured


class Device:
  """A meter of the time in which the devices are idle.

  The host prepares the next batches while the devices still work on the last
  ones. Of its waiting time, only the part after they have finished is lost.
  """

  def __init__(self) -> None:
    """Begins with idle devices."""
    self._thread = futures.ThreadPoolExecutor(1)
    self._done: futures.Future[float] | None = None

  def works_on(self, outputs: Any) -> None:
    """Takes the outputs of the dispatch that was started last."""
    self._done = self._thread.submit(_done_at, outputs)

  def idle(self, began: float, now: float) -> float:
    """Returns the idle seconds between the times `began` and `now`."""
    if self._done is None:
      return now - began
    if not self._done.done():
      return 0.0
    return now - min(now, max(began, self._done.result()))

  def close(self) -> None:
    """Ends the thread, once the devices have finished."""
    self._thread.shutdown(wait=False)


def _done_at(outputs: Any) -> float:
  jax.block_until_ready(outputs)
  return time.monotonic()


class Stretch:
  """A meter of the share of the steps' time that a run waits for data."""

  def __init__(self) -> None:
    """Begins with the first dispatch, whose time is not counted.

    In the first dispatch processes start and XLA compiles.
    """
    self._before: tuple[float, float] | None = None

  def share(self, seconds: Mapping[str, float]) -> float:
    """Returns the share of waiting in the stretch that ends now, in 0..1.

    It is 0 until the stretch has ended.

    Args:
      seconds: The seconds of a `logging.Clock`, after a dispatch.
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
  """Returns the warning of a run.

  Args:
    share: The share of the time that the devices wait, in 0..1.
  """
  return (
    f'the devices wait for data {100 * share:.0f}% of the time; docs/data.md '
    'says what helps'
  )
