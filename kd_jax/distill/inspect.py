"""Facts that need no data: shapes and costs, by tracing alone."""

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

from kd_jax import errors, models, pytrees, tasks
from kd_jax.distill import step
from kd_jax.features import NetFeatures, known
from kd_jax.methods import base
from kd_jax.runtime import jaxprs
from kd_jax.tasks import classification

_CLASSIFICATION = classification.Classification()


class Deployed(NamedTuple):
  """The parameters and the cost of the prediction that a run deploys.

  Attributes:
    name: The name of the prediction.
    groups: The networks, and 'method', whose parameters it reads.
    params: How many parameters it reads.
    flops: FLOPs of one image's forward pass; see `jaxprs.flops`.
  """

  name: str
  groups: tuple[str, ...]
  params: int
  flops: float


class Traced(NamedTuple):
  """What tracing tells of an experiment.

  Attributes:
    features: Shapes and dtypes of every tap of every network.
    state: Shapes and dtypes of the state before step 0.
    frozen: Shapes and dtypes of the teachers' variables by name.
    deployed: The prediction that is kept for inference.
  """

  features: NetFeatures
  state: step.TrainState
  frozen: dict[str, Any]
  deployed: Deployed


def example(
  image_size: int,
  batch_size: int,
  task: tasks.Task = _CLASSIFICATION,
) -> dict[str, Any]:
  """Returns a training `Batch` with shapes and dtypes in place of arrays."""
  image = (batch_size, image_size, image_size, 3)
  return {
    'image': jax.ShapeDtypeStruct(image, jnp.float32),
    **task.example(batch_size, image_size),
    'index': jax.ShapeDtypeStruct((batch_size,), jnp.int32),
  }


def variables_of(network: nn.Module, image_size: int) -> Mapping[str, Any]:
  """Returns shapes and dtypes of a network's variables, without taps."""

  images = example(image_size, 2)['image']
  init = functools.partial(step.variables_of, network, jax.random.key(0))
  return jax.eval_shape(init, images)


def last_taps(
  default: tuple[str, ...], student: nn.Module, teacher: nn.Module | None = None
) -> dict[str, tuple[str, ...]]:
  """Returns taps that end with the networks' last maps before pooling.

  Args:
    default: The method's taps, shallow first. A network without the taps
      'stage1', 'stage2', ... keeps them.
    student: The student.
    teacher: The teacher, of which the map that it pools is taken.

  Returns:
    'taps', and 'teacher_taps' if there is a teacher.
  """
  taps = {'taps': default}
  if found := models.last_maps(student):
    taps['taps'] = found.stages[-1:] if len(default) == 1 else found.stages
  if teacher is not None:
    found = models.last_maps(teacher)
    taps['teacher_taps'] = (found.pooled,) if found else default
  return taps


def trace(
  exp: step.Experiment,
  image_size: int,
  batch_size: int,
  rules: Sequence[str] = (),
  cached: bool = False,
  soft: bool = False,
) -> Traced:
  """Returns what tracing tells of an experiment.

  It traces the first state, one training step and the prediction, so that
  whatever does not fit raises here.

  Args:
    exp: The experiment.
    image_size: Height and width in pixels.
    batch_size: Images of a batch.
    rules: Regular expressions, each of which must match a parameter's path.
    cached: Whether the training step gets the teachers' logits in the batch.
    soft: Whether the batch's labels are probabilities [N,K].

  Raises:
    UsageError: A tap is unknown or does not fit the method, or a rule matches
      no parameter.
  """

  def steps(frozen, batch):
    seed = jnp.zeros((), jnp.int32)
    state, feats = step.first(exp, seed, frozen, batch)
    _check_rules(rules, state.params)
    logits = {known(n): feats[n]['logits'] for n in exp.teachers if cached}
    if soft:
      name = next(iter(exp.students))
      logits['label'] = jax.nn.softmax(feats[name]['logits'])
    step.train_step(exp, seed, state, frozen, {**batch, **logits})
    return state, feats

  taught = frozen(exp, image_size)
  try:
    state, feats = jax.eval_shape(
      steps, taught, example(image_size, batch_size, exp.method.task)
    )
    kept = deployed(exp, state, taught, image_size)
    return Traced(feats, state, taught, kept)
  except (TypeError, ValueError) as error:
    if isinstance(error, errors.UsageError):
      raise
    where = _line_of_method(exp.method, error)
    if not where:
      raise
    raise errors.UsageError(
      f'{where}: {_first_line(error)}; the method does not fit these '
      'networks: choose other taps, networks of equal widths there '
      '(config.student.args, config.teacher.args), or add an adapter'
    ) from error


def first_state(exp: step.Experiment, image_size: int) -> step.TrainState:
  """Returns shapes and dtypes of the state before step 0.

  Args:
    exp: The experiment.
    image_size: Height and width in pixels.
  """
  init = functools.partial(step.init, exp)
  batch = example(image_size, 2, exp.method.task)
  return jax.eval_shape(init, jnp.int32(0), frozen(exp, image_size), batch)


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
  # A rule may name a group without parameters: a method without adapters.
  groups = [f'{name}/' for name in params]
  for rule in rules:
    if not any(re.search(rule, path) for path in (*paths, *groups)):
      parts = {'/'.join(path.split('/')[:2]) + '/' for path in paths}
      raise errors.unknown(
        'parameters of config.optimizer.rules or trainable:', rule, parts
      )


def deployed(
  exp: step.Experiment,
  state: step.TrainState,
  frozen: Mapping[str, Any],
  image_size: int,
) -> Deployed:
  """Describes the first of the method's predictions.

  Args:
    exp: The experiment.
    state: Shapes and dtypes of a state.
    frozen: Shapes and dtypes of the teachers' variables by name.
    image_size: Height and width in pixels.
  """
  shape = example(image_size, 1)['image'].shape
  names: list[str] = []

  def predict(params, model_state, frozen):
    batch_of_one = {'image': jnp.zeros(shape)}
    logits = step.predict_step(exp, params, model_state, frozen, batch_of_one)
    names.append(next(iter(logits)))
    return logits[names[0]]

  args = (state.params, state.model_state, frozen)
  program = jax.make_jaxpr(predict)(*args)
  _, used = jaxprs.pruned(program)
  leaves = jax.tree_util.tree_leaves_with_path(args)
  read_leaves = [
    leaf for leaf, is_read in zip(leaves, used, strict=True) if is_read
  ]
  groups, params = set(), 0
  for where, leaf in read_leaves:
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


def frozen(exp: step.Experiment, image_size: int) -> dict[str, Any]:
  """Returns shapes and dtypes of the teachers' variables by name."""
  return {
    name: dict(variables_of(network, exp.sizes.get(name, image_size)))
    for name, network in exp.teachers.items()
  }
