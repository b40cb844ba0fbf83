"""The networks of a run: made from a configuration, by the method's names."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from kd_jax import errors, models
from kd_jax.config import roles
from kd_jax.distill import inspect, optim
from kd_jax.methods import base

DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}


def make_network(
  network: ConfigDict, classes: int, dtype: str, bn_group_size: int = 0
) -> nn.Module:
  """Returns a network from its name and its arguments.

  Args:
    network: A group with 'name' and 'args', such as `config.student`.
    classes: The number of classes, K.
    dtype: What it computes in, by a name in `DTYPES`.
    bn_group_size: See `layers.BatchNorm.group_size`.
  """
  args = {
    key: tuple(value) if isinstance(value, list) else value
    for key, value in network.args.to_dict().items()
  }
  common: dict[str, Any] = {}
  if dtype != 'float32':
    common['dtype'] = DTYPES[dtype]
  if bn_group_size:
    common['bn_group_size'] = bn_group_size
  try:
    return models.make(network.name, classes, **{**common, **args})
  except errors.ArgumentError as error:
    argument = str(error).partition('=')[0]
    if argument in args or argument not in common:
      raise
    raise errors.UsageError(
      f'config.{argument}={dtype if argument == "dtype" else bn_group_size}: '
      f'the network {network.name} has no field {argument}; give it one'
    ) from error


def students(
  config: ConfigDict, classes: int, method: base.Method
) -> dict[str, nn.Module]:
  """Returns the networks that a method trains, by its names for them.

  Raises:
    UsageError: One of them cannot be made, or has nothing to train.
  """
  made = {}
  for name in method.students:
    network, key = (
      roles.student(config, name),
      roles.key(config, 'student', name),
    )
    if models.is_function(network.name):
      raise errors.UsageError(
        f'{key}.name={network.name!r}: a function of images has nothing to '
        'train; name a class of flax.linen.Module'
      )
    with errors.keys(f'{key}.args.'):
      made[name] = make_network(
        network, classes, config.dtype, config.bn_group_size
      )
  return made


def teachers(
  config: ConfigDict, classes: int, method: base.Method
) -> dict[str, nn.Module]:
  """Returns the frozen networks that a method reads, by its names for them.

  Raises:
    UsageError: One of them cannot be made.
  """
  made = {}
  for name in method.teachers:
    with roles.naming(config, name):
      made[name] = _teacher(roles.with_teacher(config, name), classes)
  return made


def _teacher(config: ConfigDict, classes: int) -> nn.Module:
  teacher, dtype = config.teacher, config.teacher.dtype or config.dtype
  rate = teacher.recipe.to_dict().get('optimizer', {})
  if not teacher.path and 'learning_rate' in rate:
    key = 'config.teacher.recipe.optimizer.learning_rate'
    optim.schedule(rate['learning_rate'], 1, 1, key)
  if dtype != 'float32' and models.is_function(teacher.name):
    raise errors.UsageError(
      f'{teacher.name} is a function of images and has no argument '
      "dtype; config.teacher.dtype='float32' leaves the choice to it"
    )
  with errors.keys('config.teacher.args.'):
    return make_network(teacher, classes, dtype, config.bn_group_size)


def inputs(
  config: ConfigDict, facts: Mapping[str, Any], method: base.Method
) -> dict[str, tuple[list[float], list[float]]]:
  """Returns the (scale, shift) of the images for each teacher, by name.

  It has no teacher that shares the students' normalisation, and is empty if
  `facts` has none yet. See `step.Experiment.inputs`.
  """
  seen = {}
  for name in method.teachers:
    with roles.naming(config, name):
      teacher = roles.with_teacher(config, name).teacher
      if found := _input(teacher, facts):
        seen[name] = found
  return seen


def _input(
  teacher: ConfigDict, facts: Mapping[str, Any]
) -> tuple[list[float], list[float]] | None:
  for key in ('mean', 'std'):
    if len(teacher[key]) not in (0, 3) or (key == 'std' and 0 in teacher[key]):
      raise errors.UsageError(
        f'config.teacher.{key}={teacher[key]}: give 3 numbers, of pixels in '
        '0..1'
      )
  if 'mean' not in facts:  # the data set is not known yet
    return None
  mean, std = (np.asarray(facts[fact], np.float64) for fact in ('mean', 'std'))
  seen = np.asarray(teacher.mean or mean), np.asarray(teacher.std or std)
  if np.array_equal(seen, (mean, std)):
    return None
  scale, shift = std / seen[1], (mean - seen[0]) / seen[1]
  return scale.tolist(), shift.tolist()


def sizes(config: ConfigDict, method: base.Method) -> dict[str, int]:
  """Returns the pixels to which images are resized for a teacher, by name.

  It has no teacher that sees images at the data's size. See
  `step.Experiment.sizes`.
  """
  asked = {
    # A run of an older version has no such key.
    name: roles.with_teacher(config, name).teacher.get('image_size', 0)
    for name in method.teachers
  }
  return {name: size for name, size in asked.items() if size}


def last_taps(
  config: ConfigDict, method: base.Method, classes: int
) -> dict[str, tuple[str, ...]]:
  """Returns 'taps' and 'teacher_taps' that end with the last maps.

  They are those of the first student and the first teacher; see
  `inspect.last_taps`.

  Args:
    config: The configuration.
    method: The method, with any taps.
    classes: The number of classes, K.
  """
  student = method.students[0]
  with errors.keys(f'{roles.key(config, "student", student)}.args.'):
    made = [make_network(roles.student(config, student), classes, 'float32')]
  for name in method.teachers[:1]:
    teacher = roles.with_teacher(config, name).teacher
    if teacher.name:
      with errors.keys(f'{roles.key(config, "teacher", name)}.args.'):
        made.append(make_network(teacher, classes, 'float32'))
  found = inspect.last_taps(type(method).taps, *made)  # type: ignore[attr-defined]
  given = config.method_args.to_dict().get('teacher_taps')
  return {**found, 'teacher_taps': tuple(given)} if given else found
