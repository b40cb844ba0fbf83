"""What can be known without data: shapes and costs, by tracing alone."""

from collections.abc import Mapping, Sequence
import functools
import math
import os
import re
import sys
import traceback
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax import errors, pytrees
from kd_jax.distill import step
from kd_jax.features import NetFeatures
from kd_jax.methods import base
from kd_jax.runtime import jaxprs


class Deployed(NamedTuple):
  """What the prediction that a run is about needs.

  Attributes:
    name: of the prediction.
    groups: the networks, and 'method', whose parameters it reads.
    params: how many parameters it reads.
    flops: of one image's forward pass; see `jaxprs.flops`.
  """

  name: str
  groups: tuple[str, ...]
  params: int
  flops: float


def example(image_size: int, batch_size: int) -> dict[str, Any]:
  """A training `Batch` of shapes in place of arrays."""
  image = (batch_size, image_size, image_size, 3)
  return {
    'image': jax.ShapeDtypeStruct(image, jnp.float32),
    'label': jax.ShapeDtypeStruct((batch_size,), jnp.int32),
    'index': jax.ShapeDtypeStruct((batch_size,), jnp.int32),
  }


def variables_of(network: nn.Module, image_size: int) -> Mapping[str, Any]:
  """Shapes and dtypes of a network's variables, taps left out."""

  images = example(image_size, 2)['image']
  init = functools.partial(step.variables_of, network, jax.random.key(0))
  return jax.eval_shape(init, images)


def shapes(
  exp: step.Experiment,
  image_size: int,
  batch_size: int,
  rules: Sequence[str] = (),
  cached: bool = False,
) -> NetFeatures:
  """Shapes of all features.

  One training step is traced too, so that what does not fit shows here.

  Args:
    exp: the experiment.
    image_size: pixels.
    batch_size: images.
    rules: regular expressions, each to be found in some parameter's path.
    cached: whether the training step gets the teachers' logits.

  Raises:
    UsageError: from the method, for a tap that is not there or does not fit;
      for a rule that matches nothing.
  """
  batch = example(image_size, batch_size)

  def trace(frozen, batch):
    seed = jnp.zeros((), jnp.int32)
    state = step.init(exp, seed, frozen, batch)
    _check_rules(rules, state.params)
    known = step.known_logits(exp, frozen, batch) if cached else {}
    step.train_step(exp, seed, state, frozen, {**batch, **known})
    networks = (state.params, state.model_state, frozen, batch)
    step.predict_step(exp, *networks)
    return step.features_of(exp, *networks)

  try:
    return jax.eval_shape(trace, _frozen(exp, image_size), batch)
  except (TypeError, ValueError) as error:
    if isinstance(error, errors.UsageError):
      raise
    where = _line_of_method(exp.method, error)
    if not where:
      raise
    raise errors.UsageError(
      f'{where}: {_first_line(error)}; the method does not fit these '
      'networks: choose other taps (config.method_args) or another pair'
    ) from error


def _first_line(error: Exception) -> str:
  return (str(error).splitlines() or [type(error).__name__])[0].rstrip('.')


def _line_of_method(method: base.Method, error: Exception) -> str:
  """Returns 'file, line n' where a method raised an error; '' elsewhere."""
  file = sys.modules[type(method).__module__].__file__ or ''
  lines = [
    number
    for frame, number in traceback.walk_tb(error.__traceback__)
    if frame.f_code.co_filename == file
  ]
  return f'{os.path.basename(file)}, line {lines[-1]}' if lines else ''


def _check_rules(rules: Sequence[str], params: dict[str, Any]) -> None:
  paths = [
    pytrees.path_name(path)
    for path, _ in jax.tree_util.tree_leaves_with_path(params)
  ]
  groups = [f'{name}/' for name in params]  # a method may need no adapters
  for rule in rules:
    if not any(re.search(rule, path) for path in (*paths, *groups)):
      parts = {'/'.join(path.split('/')[:2]) + '/' for path in paths}
      raise errors.unknown(
        'parameters of config.optimizer.rules or trainable:', rule, parts
      )


def deployed(exp: step.Experiment, image_size: int) -> Deployed:
  """What the first of the method's predictions needs, and its cost."""
  frozen, batch = _frozen(exp, image_size), example(image_size, 2)
  state = jax.eval_shape(
    functools.partial(step.init, exp), jnp.int32(0), frozen, batch
  )
  shape = example(image_size, 1)['image'].shape
  names: list[str] = []

  def predict(params, model_state, frozen):
    one = {'image': jnp.zeros(shape)}
    found = step.predict_step(exp, params, model_state, frozen, one)
    names.append(next(iter(found)))
    return found[names[0]]

  args = (state.params, state.model_state, frozen)
  program = jax.make_jaxpr(predict)(*args)
  _, used = jaxprs.pruned(program)
  leaves = jax.tree_util.tree_leaves_with_path(args)
  read = [leaf for leaf, is_read in zip(leaves, used, strict=True) if is_read]
  groups, params = set(), 0
  for where, leaf in read:
    argument, group, *rest = pytrees.path_name(where).split('/')
    if argument == '0' or rest[0] == 'params':
      groups.add(group)
      params += math.prod(leaf.shape)
  return Deployed(
    name=names[0],
    groups=tuple(sorted(groups)),
    params=params,
    flops=jaxprs.flops(program),
  )


def _frozen(exp: step.Experiment, image_size: int) -> dict[str, Any]:
  return {
    name: dict(variables_of(network, image_size))
    for name, network in exp.teachers.items()
  }
