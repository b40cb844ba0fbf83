"""Checks of a configuration's values that depend on nothing else."""

import functools
from typing import Any

from ml_collections import ConfigDict

from kd_jax import domains, errors
from kd_jax.config import roles, schema


def check_values(config: ConfigDict) -> None:
  """Checks all values that can be checked without data, networks or devices.

  Args:
    config: The configuration.

  Raises:
    UsageError: A value is not allowed.
  """
  _check_fields(config)
  data = config.data
  area = tuple(data.area)
  if len(area) != 2 or not 0 < area[0] <= area[1] <= 1:
    raise errors.UsageError(
      f'config.data.area={area}: give the least and the greatest fraction of '
      'the area, such as (0.08, 1.0)'
    )
  if data.fast_decode and data.augment != 'random_resized_crop':
    raise errors.UsageError(
      'config.data.fast_decode=True: it is for config.data.augment='
      f"'random_resized_crop', and this is {data.augment!r}; give False"
    )
  scale = tuple(data.scale)
  if len(scale) != 2 or scale[0] > scale[1]:
    raise errors.UsageError(
      f'config.data.scale={scale}: give the least and the greatest shorter '
      'side in pixels, such as (256, 1026)'
    )
  teachers = [config]
  for name in roles.named(config, 'teacher'):
    with roles.naming(config, name):
      teachers.append(roles.with_teacher(config, name))
      _check_fields(teachers[-1], 'teacher.')
      _check_teacher(teachers[-1])
  _check_teacher(config)
  crops = data.crop_padding or data.augment != 'crop_flip'
  has_teacher = any(each.teacher.name for each in teachers)
  if config.teacher.cache_logits and (crops or not has_teacher):
    raise errors.UsageError(
      'config.teacher.cache_logits=True: it is for a teacher (config.teacher.'
      f'name={config.teacher.name!r}) that sees the same images again: set '
      "config.data.augment='crop_flip' and config.data.crop_padding=0"
    )


def _check_fields(config: ConfigDict, group: str = '') -> None:
  """Checks each value whose key begins with `group` by itself."""
  with errors.keys('config.'):
    for path in domains.KEYS:
      if path.startswith(group):
        domains.check_key(path, _at(config, path))
  for path, allowed in schema.CHOICES.items():
    if path.startswith(group) and _at(config, path) not in allowed:
      raise errors.unknown(
        f'value of config.{path}:', _at(config, path), allowed
      )


def _check_teacher(config: ConfigDict) -> None:
  """Checks the fields of `config.teacher` together."""
  if config.teacher.name and not config.teacher.path:
    _check_recipe(config.teacher.recipe.to_dict())
  if config.teacher.key and not config.teacher.path:
    raise errors.UsageError(
      f'config.teacher.key={config.teacher.key!r}: it says where weights stand '
      'in a file, and config.teacher.path names none'
    )
  mode = config.teacher.args.to_dict().get('batch_norm', 'auto')
  if config.teacher.cache_logits and mode == 'batch':
    raise errors.UsageError(
      'config.teacher.cache_logits=True: with config.teacher.args.batch_norm='
      "'batch' a teacher's logits depend on the batch; give 'auto' or 'running'"
    )


def _at(config: ConfigDict, path: str) -> Any:
  *groups, last = path.split('.')
  return functools.reduce(getattr, groups, config)[last]


def _check_recipe(recipe: dict[str, Any]) -> None:
  """Checks the numbers of the recipe of a teacher that is to be trained."""
  for path in domains.KEYS:
    *groups, last = path.split('.')
    values: Any = recipe
    for group in groups:
      values = values.get(group, {}) if isinstance(values, dict) else {}
    if isinstance(values, dict) and last in values:
      with errors.keys('config.teacher.recipe.'):
        domains.check_key(path, values[last])


def check_batch(config: ConfigDict, devices: int) -> None:
  """Checks that the batch size divides as the configuration asks.

  A batch is divided over devices, into parts for gradient accumulation and
  into groups for BatchNorm.

  Args:
    config: The configuration.
    devices: The number of devices that share a batch.

  Raises:
    UsageError: The batch does not divide evenly.
  """
  parts, group = config.accumulate_steps, config.bn_group_size
  if config.batch_size % (parts * devices):
    raise errors.UsageError(
      f'config.accumulate_steps={parts}: config.batch_size={config.batch_size} '
      f'does not divide into so many parts over {devices} devices'
    )
  if group and config.batch_size // parts % group:
    raise errors.UsageError(
      f'config.bn_group_size={group} does not divide the '
      f'{config.batch_size // parts} images of a batch'
      + (' of accumulate_steps' if parts > 1 else '')
    )


def check_data(
  config: ConfigDict,
  *,
  num_train: int,
  num_val: int,
  image_size: int,
  is_resident: bool,
) -> None:
  """Checks the values that depend on the data set.

  Args:
    config: The configuration.
    num_train: Training images.
    num_val: Validation images.
    image_size: Height and width in pixels.
    is_resident: Whether the training images live on the devices.

  Raises:
    UsageError: A value does not fit the data set.
  """
  name = config.data.name
  for teacher in ('teacher', *roles.named(config, 'teacher')):
    fields = roles.with_teacher(config, teacher).teacher
    if fields.expected_on == 'val' and not num_val:
      key = roles.key(config, 'teacher', teacher)
      raise errors.UsageError(
        f"{key}.expected_on='val': {name} has no split 'val'; set "
        "config.data.val_fraction, or give 'test' or 'train'"
      )
  if config.teacher.cache_logits and not is_resident:
    raise errors.UsageError(
      'config.teacher.cache_logits=True: the training images would be streamed '
      '(config.data.device_mb), and the logits are kept beside images on the '
      'device'
    )
  if num_train < config.batch_size:
    raise errors.UsageError(
      f'config.batch_size={config.batch_size} is more than the '
      f'{num_train} training images; take at most so many'
    )
  if not 0 <= config.data.crop_padding < image_size:
    raise errors.UsageError(
      f'config.data.crop_padding={config.data.crop_padding}: the images have '
      f'{image_size} pixels; give less'
    )
