"""Classification: what of the predictions is right, counted exactly."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from kd_jax import losses
from kd_jax.features import Batch


def count(logits: jax.Array, batch: Batch) -> dict[str, jax.Array]:
  """Correct predictions, summed loss and images of one batch, masked.

  Args:
    logits: [N,K].
    batch: with 'label' and 'mask' [N].

  Returns:
    'top1' and 'top5' (i32 counts; top5 of min(5, K) classes), 'loss' (summed
    cross-entropy f32), 'images' (i32).
  """
  labels = losses.classes(batch['label'])
  mask = batch['mask'] > 0
  ranks = rank(logits, labels)
  each = -jnp.take_along_axis(
    jax.nn.log_softmax(logits.astype(jnp.float32)), labels[:, None], axis=-1
  )[:, 0]
  return {
    'top1': ((ranks < 1) & mask).sum(dtype=jnp.int32),
    'top5': ((ranks < 5) & mask).sum(dtype=jnp.int32),
    'loss': jnp.where(mask, each, 0.0).sum(),
    'images': mask.sum(dtype=jnp.int32),
  }


def rank(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """How many classes come before the right one, [N] i32.

  Of equal scores the first class wins; where a score is NaN the right one is
  last, and never counts.

  Args:
    logits: [N,K].
    labels: [N] i32.
  """
  target = jnp.take_along_axis(logits, labels[:, None], axis=-1)
  classes = jnp.arange(logits.shape[-1])[None, :]
  ahead = (logits > target) | ((logits == target) & (classes < labels[:, None]))
  worst = max(5, logits.shape[-1])  # beyond the top 5 of any number of classes
  return jnp.where(jnp.isnan(logits).any(axis=-1), worst, ahead.sum(axis=-1))


def measures(sums: Mapping[str, float]) -> dict[str, float]:
  """Returns the figures of a whole split from the sums of `count`.

  Returns:
    'top1' and 'top5' in percent, 'loss' (mean cross-entropy), 'images' (how
    many).
  """
  return {
    'top1': 100 * sums['top1'] / sums['images'],
    'top5': 100 * sums['top5'] / sums['images'],
    'loss': sums['loss'] / sums['images'],
    'images': sums['images'],
  }
