"""The points of a run's curves between two of its records."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from kd_jax.runtime import logging

RATE = 'learning_rate'  # the scalar of a step that is no mean


class Point(NamedTuple):
  """What is logged of the steps since the point before.

  Attributes:
    step: The number of steps done.
    values: 'learning_rate' of the last of these steps, 'images_per_s', and
      'step/<name>', the mean of each other scalar.
  """

  step: int
  values: dict[str, float]


class Points:
  """A maker of points, one for every N steps."""

  def __init__(self, every: int, batch_size: int):
    """Begins with the first step that is added.

    Args:
      every: N; 0 makes no points.
      batch_size: The images of a step, over all devices.
    """
    self._every, self._batch_size = every, batch_size
    self._means, self._rate = logging.Means(), logging.Rate()

  def add(
    self, first: int, values: Mapping[str, np.ndarray], seconds: float
  ) -> list[Point]:
    """Adds the scalars of S consecutive steps, which were read together.

    Args:
      first: The number of steps done before them.
      values: The values of each scalar by name, [S] each.
      seconds: The seconds spent on training, from any zero.

    Returns:
      The points of the last steps of the periods that end among them.
    """
    if not self._every:
      return []
    count = len(values['total'])
    self._rate.add(count * self._batch_size, seconds)
    ends = [end for end in range(1, count + 1) if not self._left(first + end)]
    speed = self._rate.take() if ends else None
    points, begin = [], 0
    for end in ends:
      self._means.add(_part(values, begin, end))
      found = {}
      if RATE in values:
        found[RATE] = _short(values[RATE][end - 1])
      if speed is not None:
        found['images_per_s'] = _short(speed)
      for name, mean in self._means.take().items():
        found[f'step/{name}'] = _short(mean)
      points.append(Point(first + end, found))
      begin = end
    if begin < count:
      self._means.add(_part(values, begin, count))
    return points

  def _left(self, step: int) -> int:
    return step % self._every


class Meter:
  """A meter of all that a run logs of its steps."""

  def __init__(self, every: int, batch_size: int):
    """Begins with the first step that is added; see `Points`."""
    self._speed = logging.Speed()
    self._points = Points(every, batch_size)
    self._batch_size = batch_size
    self._means, self._rate = logging.Means(), logging.Rate()
    self._learning_rate: float | None = None

  @property
  def count(self) -> int:
    """The number of steps since the last `take`."""
    return self._means.count

  def speed(self, left: int) -> str:
    """Returns the text of `logging.Speed`.

    Args:
      left: The number of steps still to do.
    """
    return self._speed.text(left * self._batch_size)

  def add(
    self, first: int, values: Mapping[str, np.ndarray], seconds: float
  ) -> list[Point]:
    """Adds the scalars of steps, and returns points; see `Points.add`."""
    count = len(values['total'])
    for meter in (self._speed, self._rate):
      meter.add(count * self._batch_size, seconds)
    if RATE in values:
      self._learning_rate = float(values[RATE][-1])
    self._means.add(_part(values, 0, count))
    return self._points.add(first, values, seconds)

  def take(self) -> tuple[dict[str, float], dict[str, float]]:
    """Returns what is known of the steps since the last call.

    Returns:
      The last learning rate and the images per second, if they are known, and
      the means of the other scalars by name.
    """
    figures = {RATE: self._learning_rate, 'images_per_s': self._rate.take()}
    known = {n: _short(x) for n, x in figures.items() if x is not None}
    return known, self._means.take()


def _part(
  values: Mapping[str, np.ndarray], begin: int, end: int
) -> dict[str, np.ndarray]:
  return {n: value[begin:end] for n, value in values.items() if n != RATE}


def _short(value: float) -> float:
  """Returns a number with six digits, which keeps the files small."""
  return float(f'{value:.6g}')
