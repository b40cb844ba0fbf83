"""Checks of a configuration against the task of its data."""

from collections.abc import Mapping

import flax.linen as nn
from ml_collections import ConfigDict

from kd_jax import errors, models, tasks
from kd_jax.config import roles
from kd_jax.data import shaped, source
from kd_jax.methods import registry


def check_method(config: ConfigDict, task: tasks.Task) -> None:
  """Checks that the method and the augmentation are for the data's task.

  Args:
    config: The configuration.
    task: The task of its data set.

  Raises:
    UsageError: One of them is for classification alone.
  """
  data = f'config.data.name={config.data.name!r} is for {task.name}'
  for kind, targets in (('segmentation', 'masks'), ('detection', 'boxes')):
    if config.data.augment == kind != task.name:
      raise errors.UsageError(
        f'config.data.augment={kind!r} moves images with their {targets}, and '
        f"{data}: give 'crop_flip'"
      )
  with errors.keys('config.data.'):
    shaped.check(config.data.eval_protocol, task.name)
  if task.name == 'classification':
    return
  if not registry.method_class(config.method).is_dense:
    dense = [n for n in registry.names() if registry.method_class(n).is_dense]
    raise errors.UsageError(
      f'method {config.method} reads one label and one vector of logits an '
      f'image, and {data}: take one of {", ".join(dense)}'
    )
  if len(config.method_args.get('teachers', ())) > 1:
    raise errors.UsageError(
      f'config.method_args.teachers={config.method_args.teachers}: several '
      f'teachers are for one vector of logits an image, and {data}: give one'
    )
  if config.data.augment == 'random_resized_crop':
    raise errors.UsageError(
      "config.data.augment='random_resized_crop' moves no masks or boxes, and "
      f"{data}: give 'crop_flip' or {task.name!r}"
    )
  if config.teacher.cache_logits:
    raise errors.UsageError(
      'config.teacher.cache_logits=True keeps one vector of logits an image, '
      f'and {data}: give False'
    )
  reflects = config.data.padding_mode == 'reflect' and config.data.crop_padding
  if task.name == 'detection' and reflects:
    raise errors.UsageError(
      "config.data.padding_mode='reflect' shows mirrored objects that have no "
      f"boxes, and {data}: give 'zero', or config.data.crop_padding=0"
    )


def check_splits(config: ConfigDict, opened: source.Source) -> None:
  """Opens all splits, whose labels are checked, before all compiling.

  Args:
    config: The configuration.
    opened: The data set.

  Raises:
    UsageError: A label is no class, or the images cannot be evaluated as the
      configuration says.
  """
  info = opened.info
  with errors.keys('config.data.'):
    for split in ('train', 'test', *(['val'] if info.num_val else [])):
      opened.split(split)
    shaped.check(config.data.eval_protocol, info.task, opened.split('test'))


def check_networks(
  config: ConfigDict,
  task: tasks.Task,
  students: Mapping[str, nn.Module],
  teachers: Mapping[str, nn.Module],
) -> None:
  """Checks that the networks are for the data's task.

  Args:
    config: The configuration.
    task: The task of its data set.
    students: The students by name.
    teachers: The teachers by name.

  Raises:
    UsageError: One of them is for another task, or a teacher of another task
      than classification sees images of another size.
  """
  for role, networks in (('student', students), ('teacher', teachers)):
    for name, network in networks.items():
      key = roles.key(config, role, name)
      if (other := models.task(network)) != task.name:
        raise errors.UsageError(
          f'{key}.name={_fields(config, role, name).name!r} is a network for '
          f'{other}, and config.data.name={config.data.name!r} is for '
          f'{task.name}: `kd-jax list networks` says what each network is for'
        )
  for name in teachers if task.name != 'classification' else ():
    if size := _fields(config, 'teacher', name).image_size:
      raise errors.UsageError(
        f'{roles.key(config, "teacher", name)}.image_size={size}: its outputs '
        f'would be of other positions, and config.data.name='
        f'{config.data.name!r} is for {task.name}: give 0'
      )


def _fields(config: ConfigDict, role: str, name: str) -> ConfigDict:
  if role == 'student':
    return roles.student(config, name)
  return roles.with_teacher(config, name).teacher
