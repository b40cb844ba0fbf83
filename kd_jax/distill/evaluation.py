"""Exact accuracy over a whole split: every image counts once."""

from collections.abc import Callable, Mapping, Sequence
import contextlib
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh
import numpy as np
import optax

from kd_jax import models, tasks
from kd_jax.data import dataset
from kd_jax.distill import step
from kd_jax.methods import base
from kd_jax.runtime import sharding

Counts = dict[str, dict[str, dict[str, jax.Array]]]


def make(
  exp: step.Experiment, split: dataset.EvalSet, mesh: Mesh
) -> Callable[..., Counts]:
  """Makes the function that counts correct predictions of a batch.

  Args:
    exp: The experiment.
    split: The split to evaluate.
    mesh: The devices.

  Returns:
    A function of (params, model_state, frozen, arrays, feed) that returns of
    every network that the method predicts the 'sums' of `task.count` and the
    'rows' of `task.rows`. A process passes its rows of the batch as `feed`.
  """
  of_batch = counted(exp, split, mesh)

  def of_rows(params, model_state, frozen, arrays, feed):
    batch = sharding.join(feed, mesh)
    return of_batch(params, model_state, frozen, arrays, batch)

  return of_rows


def counted(exp: step.Experiment, split: dataset.EvalSet, mesh: Mesh) -> Any:
  """Returns the jitted function of `make`, which takes global batches."""

  task = exp.method.task

  def counts(params, model_state, frozen, arrays, feed):
    batch = split.eval_batch(arrays, feed)
    outputs = step.predict_step(exp, params, model_state, frozen, batch)
    return {
      name: {
        'sums': task.count(value, batch),
        'rows': task.rows(value, batch),
      }
      for name, value in outputs.items()
    }

  whole = sharding.replicated(mesh)
  return jax.jit(
    counts,
    in_shardings=(whole,) * 4 + (sharding.batched(mesh),),
    out_shardings=whole,
  )


def evaluate(
  task: tasks.Task,
  counts: Callable[..., Counts],
  split: dataset.EvalSet,
  batch_size: int,
  params: dict[str, Any],
  model_state: dict[str, Any],
  frozen: Mapping[str, Any],
  beat: Callable[[str], None] = lambda what: None,
) -> dict[str, dict[str, float]]:
  """Returns the accuracy of every network that the method predicts.

  Args:
    task: The task whose figures they are.
    counts: The function that `make` returns.
    split: The split to evaluate.
    batch_size: Images of a batch, over all devices.
    params: See `step.predict_step`.
    model_state: See `step.predict_step`.
    frozen: See `step.predict_step`.
    beat: Is told of each batch that is dispatched, for which a program may have
      been compiled.

  Returns:
    By name what `task.figures` returns; in classification 'top1' and, of more
    than 5 classes, 'top5' in percent, 'loss' (mean cross-entropy), and 'images'
    (how many there are).
  """
  with contextlib.closing(split.eval_feeds(batch_size)) as feeds:
    batches = []
    for feed in feeds:
      batches.append(counts(params, model_state, frozen, split.arrays, feed))
      beat('a batch of the evaluation')
  return {
    name: task.figures(
      total([batch[name]['sums'] for batch in batches]),
      rows([batch[name]['rows'] for batch in batches]),
    )
    for name in batches[0]
  }


def total(batches: Sequence[Any]) -> Any:
  """Returns the sums of counts over all batches of a split, in float64.

  Args:
    batches: The counts of each batch, trees of equal structure.
  """
  return jax.tree.map(
    lambda *xs: np.sum([np.asarray(x, np.float64) for x in xs], axis=0),
    *batches,
  )


def rows(batches: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
  """Returns what a task's figures need of every image of a split.

  Args:
    batches: The results of `task.rows` of each batch.
  """
  return {
    name: np.concatenate([np.asarray(batch[name]) for batch in batches])
    for name in batches[0]
  }


def alone(network: nn.Module) -> step.Experiment:
  """Returns an experiment that can only predict, with the network 'student'."""
  method = base.Method(task=tasks.find(models.task(network)))
  return step.Experiment({'student': network}, {}, method, {}, optax.identity())
