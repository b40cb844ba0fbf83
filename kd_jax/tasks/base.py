"""What a task is: targets, supervised losses, predictions and their metric."""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Protocol

import jax

from kd_jax.features import Batch, Features

Counts = dict[str, jax.Array]


class Metric(NamedTuple):
  """The figure that a run is about; greater is better.

  Attributes:
    name: Its key in results, such as 'top1'.
    text: Its name for a person, such as 'top-1'.
  """

  name: str
  text: str


class Task(Protocol):
  """What methods, evaluation and reports must know of what a data set is for.

  A task is a frozen dataclass without arrays, so that it is hashable and can
  be a field of a method.

  Attributes:
    name: As `Info.task` names it.
    headline: The metric that results and reports show first, in percent.
  """

  name: ClassVar[str]
  headline: ClassVar[Metric]

  def supervised(self, feats: Features, batch: Batch) -> jax.Array:
    """Returns the loss [] f32 of a network's features against the targets."""
    ...

  def distilled(
    self, student: Features, teacher: Features, temperature: float
  ) -> jax.Array:
    """Returns the loss [] f32 of softened predictions against the teacher's."""
    ...

  def count(self, outputs: Any, batch: Batch) -> Counts:
    """Returns sums over the images of one batch whose 'mask' is 1."""
    ...

  def count_classes(self, outputs: Any, batch: Batch) -> Counts:
    """Returns sums for each class, [K] each; 'correct' is among them."""
    ...

  def figures(self, sums: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the figures of a whole split from the sums of `count`.

    `headline.name` is among them, in percent, and 'images', a count. The sums
    may be traced arrays.
    """
    ...
