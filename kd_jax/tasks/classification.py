"""Classification: one label an image, logits, and exact counts."""

from collections.abc import Mapping
import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax import losses
from kd_jax.features import Batch, Features
from kd_jax.tasks import base


@dataclasses.dataclass(frozen=True)
class Classification(base.OfLogits):
  """The task of labelling whole images; see `base.Task`."""

  name: ClassVar[str] = 'classification'
  headline: ClassVar[base.Metric] = base.Metric('top1', 'top-1')

  def example(self, batch_size: int, image_size: int) -> dict[str, Any]:
    """Returns 'label' [N] i32."""
    del image_size
    return {'label': jax.ShapeDtypeStruct((batch_size,), jnp.int32)}

  def supervised(self, feats: Features, batch: Batch) -> jax.Array:
    """Returns the cross-entropy of the network's logits [N,K]."""
    return losses.cross_entropy(feats['logits'], batch['label'])

  def distilled(
    self, student: Features, teacher: Features, batch: Batch, temperature: float
  ) -> jax.Array:
    """Returns KD's divergence of the softened logits [N,K]."""
    del batch
    return losses.kl(student['logits'], teacher['logits'], temperature)

  def logit_rows(
    self, student: Features, teacher: Features, batch: Batch
  ) -> base.LogitRows:
    """Returns the logits [N,K] of the images."""
    logits = student['logits'], teacher['logits']
    return base.LogitRows(*logits, batch['label'])

  def count(self, outputs: jax.Array, batch: Batch) -> base.Counts:
    """Returns `count` of the logits [N,K]."""
    return count(outputs, batch)

  def count_classes(self, outputs: jax.Array, batch: Batch) -> base.Counts:
    """Returns `count_classes` of the logits [N,K]."""
    return count_classes(outputs, batch)

  def of_classes(
    self, sums: Mapping[str, Any], rows: Mapping[str, Any] = base.NO_ROWS
  ) -> dict[str, Any]:
    """Returns 'images', 'correct' and 'top1' of each class."""
    del rows
    images, correct = (np.asarray(sums[key]) for key in ('images', 'correct'))
    top1 = np.where(images > 0, 100 * correct / np.maximum(images, 1), np.nan)
    return {'images': images, 'correct': correct, 'top1': top1}

  def figures(
    self, sums: Mapping[str, Any], rows: Mapping[str, Any] = base.NO_ROWS
  ) -> dict[str, Any]:
    """Returns `measures` of the sums."""
    del rows
    return measures(sums)


def count(logits: jax.Array, batch: Batch) -> dict[str, jax.Array]:
  """Returns the sums over a batch from which `measures` computes metrics.

  Images that the mask marks as padding do not count.

  Args:
    logits: The logits, [N,K] f32.
    batch: The batch, with 'label', [N] i32 or [N,K] f32, and 'mask', [N] f32.

  Returns:
    'top1' and 'top5': The images whose label is among the likeliest 1 or 5
      classes, [] i32; with 5 classes or fewer there is no 'top5'.
    'loss': The sum of the cross-entropies, [] f32.
    'images': The number of images, [] i32.
  """
  labels = losses.classes(batch['label'])
  mask = batch['mask'] > 0
  ranks = rank(logits, labels)
  cross_entropies = -jnp.take_along_axis(
    jax.nn.log_softmax(logits.astype(jnp.float32)), labels[:, None], axis=-1
  )[:, 0]
  top5 = ((ranks < 5) & mask).sum(dtype=jnp.int32)
  return {
    'top1': ((ranks < 1) & mask).sum(dtype=jnp.int32),
    **({'top5': top5} if logits.shape[-1] > 5 else {}),
    'loss': jnp.where(mask, cross_entropies, 0.0).sum(),
    'images': mask.sum(dtype=jnp.int32),
  }


def count_classes(logits: jax.Array, batch: Batch) -> dict[str, jax.Array]:
  """Returns the sums over a batch for each class.

  Images that the mask marks as padding do not count.

  Args:
    logits: The logits, [N,K] f32.
    batch: The batch; see `count`.

  Returns:
    'images' and 'correct': The images of each class, and those whose label is
      the likeliest class, [K] i32 each.
  """
  labels = losses.classes(batch['label'])
  images = (batch['mask'] > 0).astype(jnp.int32)
  correct = images * (rank(logits, labels) < 1)
  zeros = jnp.zeros(logits.shape[-1], jnp.int32)
  return {
    'images': zeros.at[labels].add(images),
    'correct': zeros.at[labels].add(correct),
  }


def rank(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Returns the rank of each image's label among the logits.

  Among equal logits the class with the lowest index comes first. An image with
  a NaN among its logits never counts as correct: its rank is max(5, K).

  Args:
    logits: The logits, [N,K] f32.
    labels: The class indices, [N] i32.

  Returns:
    The number of classes that come before the label's, [N] i32.
  """
  target = jnp.take_along_axis(logits, labels[:, None], axis=-1)
  classes = jnp.arange(logits.shape[-1])[None, :]
  ahead = (logits > target) | ((logits == target) & (classes < labels[:, None]))
  worst = max(
    5, logits.shape[-1]
  )  # outside the top 5 for any number of classes
  return jnp.where(jnp.isnan(logits).any(axis=-1), worst, ahead.sum(axis=-1))


def measures(sums: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the metrics of a whole split.

  Args:
    sums: The results of `count`, added up over the split's batches.

  Returns:
    'top1' and 'top5': The accuracies, in percent; 'top5' if `count` has it.
    'loss': The mean cross-entropy.
    'images': The number of images.
  """
  return {
    **{
      name: 100 * sums[name] / sums['images']
      for name in ('top1', 'top5')
      if name in sums
    },
    'loss': sums['loss'] / sums['images'],
    'images': sums['images'],
  }
