"""Figures of a training step: its headline metric, and whether it is finite."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from kd_jax.features import Batch, NetFeatures, Terms
from kd_jax.methods import base


def headline(
  method: base.Method,
  variables: Mapping[str, Any],
  feats: NetFeatures,
  batch: Batch,
) -> Terms:
  """Returns the task's headline metric over a batch, [] f32, by its name.

  It returns {} if the method computes the deployed logits from features, as
  SimKD does: in training they would cost another forward pass. So it does where
  the metric is not one of sums over the batch, as the mean average precision.

  Args:
    method: The method.
    variables: Its 'params' and other collections.
    feats: The features of every network.
    batch: The batch, of which every image counts.
  """
  network = _deployed(method, variables, feats)
  if not network:
    return {}
  task, name = method.task, method.task.headline.name
  outputs = jax.lax.stop_gradient(task.outputs(feats[network]))
  mask = jnp.ones(len(batch['label']), jnp.float32)
  figures = task.figures(task.count(outputs, {**batch, 'mask': mask}))
  if name not in figures:
    return {}
  return {name: jnp.asarray(figures[name], jnp.float32)}


def _deployed(
  method: base.Method, variables: Mapping[str, Any], feats: NetFeatures
) -> str:
  """Returns the network whose logits the method deploys as they are, or ''."""
  networks: list[str] = []

  def trace(feats):
    outputs = method.apply(variables, feats, method='predict')
    deployed = jax.tree.leaves(next(iter(outputs.values())))
    networks.extend(
      n for n, f in feats.items() if any(f['logits'] is x for x in deployed)
    )

  jax.eval_shape(trace, feats)
  return networks[0] if networks else ''


def all_finite(tree: Any) -> jax.Array:
  """Returns whether no float of a tree is NaN or infinite, as bool []."""
  leaves = [
    x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)
  ]
  return jnp.stack([jnp.isfinite(x).all() for x in leaves]).all()
