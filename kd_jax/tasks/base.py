"""What a task is: targets, supervised losses, predictions and their metric."""

from collections.abc import Mapping
import types
from typing import Any, ClassVar, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from kd_jax.features import Batch, Features

Counts = dict[str, jax.Array]
# The rows of a task whose figures need sums alone.
NO_ROWS: Mapping[str, Any] = types.MappingProxyType({})


class Metric(NamedTuple):
  """The figure that a run is about; greater is better.

  Attributes:
    name: Its key in results, such as 'top1'.
    text: Its name for a person, such as 'top-1'.
  """

  name: str
  text: str


class LogitRows(NamedTuple):
  """The predictions of two networks, row by row, for losses over logits.

  Attributes:
    student: The student's logits, [R,K] f32.
    teacher: The teacher's logits, [R,K] f32.
    label: What the rows are to predict: class indices, [R] i32, or class
      probabilities, [R,K] f32.
    counted: Which rows count, [R] bool; None counts all.
  """

  student: jax.Array
  teacher: jax.Array
  label: jax.Array
  counted: jax.Array | None = None


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

  def example(self, batch_size: int, image_size: int) -> dict[str, Any]:
    """Returns shapes and dtypes of the targets of a batch, by key."""
    ...

  def supervised(self, feats: Features, batch: Batch) -> jax.Array:
    """Returns the loss [] f32 of a network's features against the targets."""
    ...

  def distilled(
    self, student: Features, teacher: Features, batch: Batch, temperature: float
  ) -> jax.Array:
    """Returns the loss [] f32 of softened predictions against the teacher's."""
    ...

  def logit_rows(
    self, student: Features, teacher: Features, batch: Batch
  ) -> LogitRows:
    """Returns what methods over logits compare, with the rows' labels."""
    ...

  def outputs(self, feats: Features) -> Any:
    """Returns the arrays [N,...] that a network predicts, for `count`."""
    ...

  def count(self, outputs: Any, batch: Batch) -> Counts:
    """Returns sums over the images of one batch whose 'mask' is 1."""
    ...

  def count_classes(self, outputs: Any, batch: Batch) -> Counts:
    """Returns sums for each class, [K] each; 'correct' is among them."""
    ...

  def of_classes(
    self, sums: Mapping[str, Any], rows: Mapping[str, Any] = NO_ROWS
  ) -> dict[str, Any]:
    """Returns the columns [K] of a table of the classes.

    They are counts, and last a figure in percent, NaN where nothing counts.

    Args:
      sums: The results of `count_classes`, added up over the split's batches.
      rows: The results of `rows`; see `figures`.
    """
    ...

  def deployed(self, outputs: Any) -> jax.Array:
    """Returns what the program of an export returns, [N,...] f32."""
    ...

  def of_deployed(self, values: jax.Array, num_classes: int) -> Any:
    """Returns `outputs`, as far as they are known from `deployed`.

    Args:
      values: The result of `deployed`.
      num_classes: K.
    """
    ...

  def rows(self, outputs: Any, batch: Batch) -> Counts:
    """Returns what the figures need of every image of a batch, [N,...] each.

    It is empty where sums are enough. The rows of padding are there too; among
    the arrays is 'mask', which marks them.
    """
    ...

  def figures(
    self, sums: Mapping[str, Any], rows: Mapping[str, Any] = NO_ROWS
  ) -> dict[str, Any]:
    """Returns the figures of a whole split, `headline.name` among them.

    The headline is in percent; 'images' is a count.

    Args:
      sums: The results of `count`, added up over the split's batches. They may
        be traced arrays where there are no rows.
      rows: The results of `rows`, concatenated over the split's batches, on the
        host.
    """
    ...


class OfLogits:
  """What tasks share whose networks predict logits and whose figures are sums.

  The last axis of the logits is the classes.
  """

  def outputs(self, feats: Features) -> jax.Array:
    """Returns the logits."""
    logits: jax.Array = feats['logits']
    return logits

  def rows(self, outputs: jax.Array, batch: Batch) -> Counts:
    """Returns nothing: the figures need sums alone."""
    del outputs, batch
    return {}

  def deployed(self, outputs: jax.Array) -> jax.Array:
    """Returns the logits as f32."""
    return outputs.astype(jnp.float32)

  def of_deployed(self, values: jax.Array, num_classes: int) -> jax.Array:
    """Returns the logits."""
    del num_classes
    return values
