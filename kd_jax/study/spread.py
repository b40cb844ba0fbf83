"""Mean, deviation and confidence interval of figures over seeds."""

from collections.abc import Sequence
import math
import statistics
from typing import NamedTuple

from scipy import special

_LEVEL = 0.95  # of the confidence intervals


class Spread(NamedTuple):
  """Values over seeds.

  Attributes:
    mean: Their mean.
    std: Their sample standard deviation; None for one value.
    sem: The standard error of the mean; None for one value.
    half: Half the width of the 95% confidence interval of the mean, by
      Student's t distribution; None for one value.
    n: Their number.
  """

  mean: float
  std: float | None
  sem: float | None
  half: float | None
  n: int

  @property
  def is_claim(self) -> bool:
    """Whether the mean is more than two standard errors from 0."""
    return self.sem is not None and abs(self.mean) > 2 * self.sem


def spread(values: Sequence[float]) -> Spread:
  """Returns mean, deviation and confidence interval of at least one value."""
  n = len(values)
  if n == 1:
    return Spread(values[0], None, None, None, 1)
  std = statistics.stdev(values)
  sem = std / math.sqrt(n)
  return Spread(
    statistics.fmean(values), std, sem, errors_of_interval(n) * sem, n
  )


def errors_of_interval(n: int) -> float:
  """Returns the standard errors in half a 95% interval of n >= 2 values."""
  return float(special.stdtrit(n - 1, 0.5 + _LEVEL / 2))
