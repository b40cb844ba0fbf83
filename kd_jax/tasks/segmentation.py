"""Semantic segmentation: a label for each pixel, and exact counts.

Predictions and labels are compared by a confusion matrix. The matrices of all
batches are added before any figure is computed from them, since a mean over
batches is another figure.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax import errors, losses
from kd_jax.features import Batch, Features
from kd_jax.models import layers
from kd_jax.tasks import base


@dataclasses.dataclass(frozen=True)
class Segmentation(base.OfLogits):
  """The task of labelling the pixels of images; see `base.Task`.

  A batch's 'label' is [N,H,W] i32. A pixel whose label is not one of the K
  classes, such as `losses.dense.VOID`, counts nowhere.
  """

  name: ClassVar[str] = 'segmentation'
  headline: ClassVar[base.Metric] = base.Metric('miou', 'mIoU')

  def example(self, batch_size: int, image_size: int) -> dict[str, Any]:
    """Returns 'label' [N,H,W] i32."""
    shape = (batch_size, image_size, image_size)
    return {'label': jax.ShapeDtypeStruct(shape, jnp.int32)}

  def supervised(self, feats: Features, batch: Batch) -> jax.Array:
    """Returns the mean cross-entropy of the logits [N,H,W,K]."""
    return losses.masked_cross_entropy(feats['logits'], batch['label'])

  def distilled(
    self, student: Features, teacher: Features, batch: Batch, temperature: float
  ) -> jax.Array:
    """Returns KD's divergence of the softened scores [N,h,w,K].

    They are the logits before they are resized to the images, a sixteenth of
    the positions.

    Raises:
      UsageError: The two networks' scores have different shapes.
    """
    del batch
    return losses.kl_of_positions(*_scores(student, teacher), temperature)

  def logit_rows(
    self, student: Features, teacher: Features, batch: Batch
  ) -> base.LogitRows:
    """Returns the scores of all positions; those with a label count.

    The scores [N,h,w,K] are those of `distilled`, and the label of a position
    is that of the pixel that is nearest to it. DIST's code for segmentation
    takes rows in this way, and counts unlabelled ones too.

    Raises:
      UsageError: The two networks' scores have different shapes.
    """
    s, t = _scores(student, teacher)
    label = nearest(batch['label'], *s.shape[1:3])
    counted = (label >= 0) & (label < s.shape[-1])
    return base.LogitRows(
      s.reshape(-1, s.shape[-1]),
      t.reshape(-1, t.shape[-1]),
      jnp.where(counted, label, 0).ravel(),
      counted.ravel(),
    )

  def count(self, outputs: jax.Array, batch: Batch) -> base.Counts:
    """Returns `count` of the logits [N,H,W,K]."""
    return count(outputs, batch)

  def count_classes(self, outputs: jax.Array, batch: Batch) -> base.Counts:
    """Returns `count_classes` of the logits [N,H,W,K]."""
    return count_classes(outputs, batch)

  def of_classes(
    self, sums: Mapping[str, Any], rows: Mapping[str, Any] = base.NO_ROWS
  ) -> dict[str, Any]:
    """Returns 'pixels', 'predicted', 'correct' and 'iou' of each class."""
    del rows
    counts = {key: sums[key] for key in ('pixels', 'predicted', 'correct')}
    return {**counts, 'iou': ious(sums)}

  def figures(
    self, sums: Mapping[str, Any], rows: Mapping[str, Any] = base.NO_ROWS
  ) -> dict[str, Any]:
    """Returns `measures` of the sums."""
    del rows
    return measures(sums)


def _scores(
  student: Features, teacher: Features
) -> tuple[jax.Array, jax.Array]:
  s, t = student['scores'], teacher['scores']
  if s.shape != t.shape:
    raise errors.UsageError(
      f"the student's scores {s.shape[1:]} and the teacher's {t.shape[1:]} "
      "must have one shape: choose networks with the same stride of 'stage1'"
    )
  return s, t


def nearest(labels: jax.Array, height: int, width: int) -> jax.Array:
  """Returns the labels of the pixels that are nearest to a map's positions.

  The corners are aligned, as where scores are resized (`layers.resize`): of a
  side n, position i of m is at the pixel i (n - 1) / (m - 1).

  Args:
    labels: The labels, [N,H,W] i32.
    height: The rows h of the map.
    width: The columns w of the map.

  Returns:
    [N,h,w] i32.
  """
  for axis, length in ((1, height), (2, width)):
    position = np.rint(np.linspace(0, labels.shape[axis] - 1, length))
    labels = jnp.take(labels, position.astype(np.int32), axis)
  return labels


def count(logits: jax.Array, batch: Batch) -> dict[str, jax.Array]:
  """Returns the sums over a batch from which `measures` computes metrics.

  Images that the mask marks as padding do not count. The matrix of a batch is
  exact up to 2^31 pixels, 8,000 images of 513 x 513 pixels; a split's matrices
  are added in float64 on the host (`evaluation.total`), exact up to 2^53.

  Logits with other sides than the labels are resized to them, with the corners
  aligned: the labels are those of the images before they were scaled.

  Args:
    logits: The logits, [N,h,w,K] f32. A pixel with a NaN among its logits
      counts as the class after its label's, which is wrong.
    batch: The batch, with 'label', [N,H,W] i32, and 'mask', [N] f32.

  Returns:
    'confusion': The labelled pixels by label and prediction, [K,K] i32.
    'loss': The sum of the cross-entropies of labelled pixels, [] f32.
    'images': The number of images, [] i32.
  """
  classes = logits.shape[-1]
  logits = layers.resize(logits, *batch['label'].shape[1:])
  images = batch['mask'] > 0
  values, labelled = losses.position_cross_entropies(logits, batch['label'])
  labelled &= images[:, None, None]
  label = jnp.where(labelled, batch['label'], 0)
  wrong = (label + 1) % classes
  nan = jnp.isnan(logits).any(axis=-1)
  predicted = jnp.where(nan, wrong, logits.argmax(axis=-1))
  cell = jnp.where(labelled, classes * label + predicted, classes**2)
  matrix = jnp.bincount(cell.ravel(), length=classes**2 + 1)[:-1]
  return {
    'confusion': matrix.reshape(classes, classes).astype(jnp.int32),
    'loss': jnp.where(labelled, values, 0.0).sum(),
    'images': images.sum(dtype=jnp.int32),
  }


def count_classes(logits: jax.Array, batch: Batch) -> dict[str, jax.Array]:
  """Returns the sums over a batch for each class; see `ious`.

  Args:
    logits: The logits, [N,h,w,K] f32; see `count`.
    batch: The batch; see `count`.

  Returns:
    'pixels', 'predicted' and 'correct': The labelled pixels of each class,
      those for which it is predicted, and those where both is so, [K] i32 each.
  """
  matrix = count(logits, batch)['confusion']
  return {
    'pixels': matrix.sum(axis=1),
    'predicted': matrix.sum(axis=0),
    'correct': matrix.diagonal(),
  }


def ious(sums: Mapping[str, Any]) -> Any:
  """Returns the intersection over union of every class, in percent.

  Args:
    sums: The results of `count_classes`, added up over the split's batches.

  Returns:
    [K], NaN for a class that is neither a label nor predicted.
  """
  return 100 * _ratio(
    sums['correct'], sums['pixels'] + sums['predicted'] - sums['correct']
  )


def measures(sums: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the metrics of a whole split.

  Args:
    sums: The results of `count`, added up over the split's batches.

  Returns:
    'miou': The mean intersection over union of the classes that are a label or
      predicted anywhere, in percent.
    'accuracy': The share of pixels that are predicted correctly, in percent.
    'class_accuracy': Its mean over the classes that are a label anywhere.
    'fwiou': The mean intersection over union, weighted by the labels' shares,
      in percent.
    'loss': The mean cross-entropy over the labelled pixels.
    'images' and 'pixels': How many there are; of pixels, those with a label.
    Without a labelled pixel the figures are 0.

  Source: `Evaluator` of overhaul-distillation 76344a8 (Segmentation).
  """
  matrix = sums['confusion']
  xp: Any = jnp if isinstance(matrix, jax.Array) else np
  pixels = matrix.sum()
  true, correct = matrix.sum(axis=1), matrix.diagonal()
  each = ious(
    {'pixels': true, 'predicted': matrix.sum(axis=0), 'correct': correct}
  )
  some = xp.maximum(pixels, 1)

  def mean(values):
    there = ~xp.isnan(values)
    total = xp.where(there, values, 0).sum()
    return total / xp.maximum(there.sum(), 1)

  return {
    'miou': mean(each),
    'accuracy': 100 * (correct.sum() / some),
    'class_accuracy': 100 * mean(_ratio(correct, true)),
    'fwiou': (xp.where(true > 0, each, 0) * (true / some)).sum(),
    'loss': sums['loss'] / some,
    'images': sums['images'],
    'pixels': pixels,
  }


def _ratio(part: Any, whole: Any) -> Any:
  """Returns part / whole of two arrays of counts, NaN where whole is 0."""
  xp: Any = jnp if isinstance(whole, jax.Array) else np
  return xp.where(whole > 0, part / xp.maximum(whole, 1), xp.nan)
