"""Trained networks whose taps can be read."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from kd_jax import models, pytrees
from kd_jax.data import augment
from kd_jax.distill import build, inspect, step
from kd_jax.distill import images as images_lib
from kd_jax.export import artifact
from kd_jax.training import restore


class Network:
  """A trained network whose taps can be read.

  Attributes:
    trained: The network and its weights.
    taps: Its taps, in the order of computation; 'logits' is the last.
    features: A function of images [N,H,W,3] u8 that returns all taps, as f32.
      Where a run deploys more than its student, as SimKD does, 'logits' are
      what it deploys.
  """

  def __init__(self, trained: artifact.Trained):
    """Builds the network from its facts; nothing is computed.

    Args:
      trained: A network that predicts by itself, or through a method.

    Raises:
      UsageError: There is no such network, or its weights are of another one.
    """
    facts = trained.facts
    size, classes = facts['image_size'], len(facts['class_names'])
    args = {
      key: tuple(value) if isinstance(value, list) else value
      for key, value in facts['network_args'].items()
    }
    dtype = facts.get('dtype', 'float32')
    if dtype != 'float32':
      args.setdefault('dtype', build.DTYPES[dtype])
    network = models.make(facts['network'], classes, **args)
    self.trained = trained
    taps = models.describe(network, size).taps
    self.taps = [*(tap for tap in taps if tap != 'logits'), 'logits']
    alone = len(facts['kept']) == 1
    variables = (
      restore.variables(trained, network, classes, size)
      if alone
      else _of_deployed(trained, inspect.variables_of(network, size))
    )

    @jax.jit
    def features(weights, variables, images):
      image = augment.normalise(images, facts['mean'], facts['std'])
      image = images_lib.resized(image, size)  # of a teacher of another size
      values, _ = step.run('network', network, variables, image, train=False)
      if not alone:
        values['logits'] = trained.forward(weights, images)
      return {tap: values[tap] for tap in self.taps}

    self.features: Callable[[Any], dict[str, jax.Array]] = lambda images: (
      features(trained.weights, variables, images)
    )


def _of_deployed(trained: artifact.Trained, shapes: Any) -> Any:
  """Returns the student's variables of a prediction through a method.

  An export lacks what the prediction does not read: the student's classifier,
  for which the method has another.
  """

  def weight(path, like):
    name = f'student/{pytrees.path_name(path)}'
    return trained.weights.get(name, jnp.zeros(like.shape, like.dtype))

  return jax.tree.map_with_path(weight, dict(shapes))
