"""The images of a configuration: where they live and how they are augmented."""

from ml_collections import ConfigDict

from kd_jax import errors, tasks
from kd_jax.data import mixing, source
from kd_jax.methods import base

_OFF = {'data.mixup': 0, 'data.cutmix': 0, 'data.label_smoothing': 0}


def resident(config: ConfigDict, info: source.Info, split: str) -> bool:
  """Returns whether a split's images fit into `config.data.device_mb`."""
  images = {
    'train': info.num_train,
    'val': info.num_val,
    'test': info.num_test,
  }[split]
  return images * _image_bytes(info) <= config.data.device_mb * 1e6


def _image_bytes(info: source.Info) -> int:
  """Returns the bytes of an image on a device, with its mask."""
  channels = 4 if info.task == 'segmentation' else 3
  return info.image_size**2 * channels


def resident_bytes(config: ConfigDict, info: source.Info) -> int:
  """Returns the bytes of the images that stay on each device."""
  counts = {'train': info.num_train, 'val': info.num_val, 'test': info.num_test}
  if config.data.augment != 'crop_flip':
    counts.pop('train')  # they are cropped as they are decoded
  there = [n for split, n in counts.items() if resident(config, info, split)]
  return sum(there) * _image_bytes(info)


def mixed(config: ConfigDict, classes: int) -> mixing.Mixing:
  """Returns how the training images and labels of a run are mixed.

  Args:
    config: The configuration of the run.
    classes: The number of classes, K.
  """
  data = config.data
  return mixing.Mixing(
    classes,
    data.mixup,
    data.cutmix,
    data.mix_prob,
    data.mix_switch,
    data.label_smoothing,
    config.teacher.sees == 'plain',
  )


def check(
  config: ConfigDict, method: base.Method, task: tasks.Task | None
) -> None:
  """Checks that the augmentation goes with the method and the data's task.

  Args:
    config: The configuration.
    method: The method.
    task: The task of the data set; None while it is not known.

  Raises:
    UsageError: It does not.
  """
  how = mixed(config, 1)
  given = [f'config.{key}={config[key]}' for key in _OFF if config[key]]
  if task and task.name != 'classification' and given:
    raise errors.UsageError(
      f'{given[0]} is for one label an image, and config.data.name='
      f'{config.data.name!r} is for {task.name}: give 0'
    )
  if how.mixes and method.needs_class:
    raise errors.UsageError(
      f'{given[0]} makes mixtures of two classes, and method {config.method} '
      'needs the class of each image: give 0'
    )
  if how.keeps_plain and not (how.mixes and config.teacher.name):
    raise errors.UsageError(
      "config.teacher.sees='plain' is for a teacher beside mixed images: set "
      "config.teacher.name and config.data.mixup or cutmix, or give 'mixed'"
    )
  if how.mixes and config.teacher.cache_logits and not how.keeps_plain:
    raise errors.UsageError(
      f'{given[0]}: with config.teacher.cache_logits=True a teacher does not '
      "see the mixtures; give config.teacher.sees='plain', or False"
    )
