"""The moving average of what is trained, from which one may predict too.

Averaged are the parameters of all students and of the method's adapters, and
the running statistics of their BatchNorms, as timm and torchvision average all
of a network's floats. A method's banks are not.

Source: Polyak and Juditsky, "Acceleration of Stochastic Approximation by
Averaging", 1992; Tarvainen and Valpola, "Mean teachers are better role models",
NeurIPS 2017. The warm-up, min(decay, (1 + step) / (10 + step)), is that of
TensorFlow's `ExponentialMovingAverage`: without it the average of a short run
would be near its first, random parameters.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

_STATISTICS = 'batch_stats'

# What is averaged, by the name of the network or 'method' and the collection.
Average = dict[str, dict[str, Any]]


def start(params: Mapping[str, Any], model_state: Mapping[str, Any]) -> Average:
  """Returns the average before the first step: the values themselves.

  Args:
    params: Parameters by network name, and 'method'.
    model_state: The other collections by the same names.
  """
  return {
    name: {
      'params': values,
      **{
        collection: statistics
        for collection, statistics in model_state.get(name, {}).items()
        if collection == _STATISTICS
      },
    }
    for name, values in params.items()
  }


def updated(
  average: Average,
  decay: float,
  step: jax.Array,
  params: Mapping[str, Any],
  model_state: Mapping[str, Any],
) -> Average:
  """Returns the average after a step.

  Args:
    average: The average before it.
    decay: What of the average is kept, at most; 0 averages nothing.
    step: The steps before it, [] i32.
    params: The parameters after the step.
    model_state: The other collections after the step.
  """
  if not decay:
    return average
  share = jnp.maximum(1 - decay, 9 / (10 + step.astype(jnp.float32)))
  return jax.tree.map(
    lambda old, new: old + share * (new - old),
    average,
    start(params, model_state),
  )


def collections(
  average: Average, model_state: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Returns parameters and other collections, to predict from the average.

  Args:
    average: The average.
    model_state: The other collections, of which those stay that are not
      averaged.
  """
  params = {name: values['params'] for name, values in average.items()}
  return params, {
    name: {
      **values,
      **{k: v for k, v in average.get(name, {}).items() if k != 'params'},
    }
    for name, values in model_state.items()
  }
