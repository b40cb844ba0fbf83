"""Exact accuracy over a whole split: every image counts once."""

from collections.abc import Callable, Mapping
import contextlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np
import optax

from kd_jax import losses, sharding, step
from kd_jax.data import dataset
from kd_jax.features import Batch
from kd_jax.methods import base

Counts = dict[str, dict[str, jax.Array]]


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


def make(
  exp: step.Experiment, split: dataset.EvalSet, mesh: Mesh
) -> Callable[..., Counts]:
  """Compiles the counting of one batch.

  Returns:
    A function of (params, model_state, frozen, arrays, feed) that gives the
    counts of every network that the method predicts.
  """
  of_batch = counted(exp, split, mesh)

  def of_rows(params, model_state, frozen, arrays, feed):
    batch = sharding.join(feed, mesh)
    return of_batch(params, model_state, frozen, arrays, batch)

  return of_rows


def counted(exp: step.Experiment, split: dataset.EvalSet, mesh: Mesh) -> Any:
  """What `make` compiles: its function of a global batch, jitted."""

  def counts(params, model_state, frozen, arrays, feed):
    batch = split.eval_batch(arrays, feed)
    logits = step.predict_step(exp, params, model_state, frozen, batch)
    return {name: count(value, batch) for name, value in logits.items()}

  whole = sharding.replicated(mesh)
  return jax.jit(
    counts,
    in_shardings=(whole,) * 4 + (sharding.batched(mesh),),
    out_shardings=whole,
  )


def evaluate(
  counts: Callable[..., Counts],
  split: dataset.EvalSet,
  batch_size: int,
  params: dict[str, Any],
  model_state: dict[str, Any],
  frozen: Mapping[str, Any],
) -> dict[str, dict[str, float]]:
  """Accuracy of every network that the method predicts.

  Args:
    counts: made by `make`.
    split: what is evaluated.
    batch_size: images a step.
    params: as in `step.predict_step`.
    model_state: as in `step.predict_step`.
    frozen: as in `step.predict_step`.

  Returns:
    By name: 'top1' and 'top5' in percent, 'loss' (mean cross-entropy),
    'images' (how many).
  """
  with contextlib.closing(split.eval_feeds(batch_size)) as feeds:
    parts = [
      counts(params, model_state, frozen, split.arrays, feed) for feed in feeds
    ]
  total = jax.tree.map(
    lambda *xs: float(np.sum([np.asarray(x, np.float64) for x in xs])), *parts
  )
  return {
    name: {
      'top1': 100 * sums['top1'] / sums['images'],
      'top5': 100 * sums['top5'] / sums['images'],
      'loss': sums['loss'] / sums['images'],
      'images': sums['images'],
    }
    for name, sums in total.items()
  }


def alone(network: nn.Module) -> step.Experiment:
  """An experiment that can only predict: one network called 'student'."""
  return step.Experiment(
    {'student': network}, {}, base.Method(), {}, optax.identity()
  )
