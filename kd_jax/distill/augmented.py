"""The images of a configuration: where they live and how they are augmented."""

from ml_collections import ConfigDict

from kd_jax import errors, tasks
from kd_jax.data import augment, mixing, source
from kd_jax.data import varied as varied_lib
from kd_jax.methods import base

_MIXING = ('data.mixup', 'data.cutmix', 'data.label_smoothing')
_VARYING = ('data.policy', 'data.color_jitter', 'data.erasing')


def by_workers(config: ConfigDict) -> str:
  """Returns what of the augmentation workers do, so that images are streamed.

  Args:
    config: The configuration.

  Returns:
    The first such value, as 'config.data.erasing=0.5'; '' if there is none.
  """
  data = config.data
  if data.augment != 'crop_flip':
    return f'config.data.augment={data.augment!r}'
  return next(iter(_given(config, _VARYING)), '')


def text(config: ConfigDict) -> str:
  """Returns what is on, as 'mixup 0.2, erasing 0.25'; '' if nothing is."""
  keys = [key for key in (*_MIXING, *_VARYING) if config[key]]
  return ', '.join(f'{key.partition(".")[2]} {config[key]}' for key in keys)


def _given(config: ConfigDict, keys: tuple[str, ...]) -> list[str]:
  """Returns 'config.key=value' of the keys that are not off."""
  return [f'config.{key}={config[key]!r}' for key in keys if config[key]]


def resident(config: ConfigDict, info: source.Info, split: str) -> bool:
  """Returns whether a split is kept on the devices.

  It is if it fits into `config.data.device_mb`, and workers do not augment it.
  """
  if split == 'train' and by_workers(config):
    return False
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
  if config.data.eval_protocol != 'square':
    counts = {k: n for k, n in counts.items() if k == 'train'}  # others stream
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


def varied(
  config: ConfigDict, crop_flip: augment.CropFlip, info: source.Info
) -> varied_lib.Varied | None:
  """Returns how workers vary the training images of a run.

  Args:
    config: The configuration of the run.
    crop_flip: How images are cropped and mirrored.
    info: The facts of its data set.
  """
  if not _given(config, _VARYING):
    return None
  data = config.data
  return varied_lib.Varied(
    crop_flip,
    data.policy,
    data.policy_ops,
    data.policy_level,
    tuple(data.color_jitter),
    data.erasing,
    tuple(info.mean),
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
  given = _given(config, _MIXING)
  wrong = given + _given(config, _VARYING)
  if wrong and task and task.name != 'classification':
    raise errors.UsageError(
      f'{wrong[0]} is for one label an image, and config.data.name='
      f'{config.data.name!r} is for {task.name}: leave it out'
    )
  jitter = tuple(config.data.color_jitter)
  if len(jitter) not in (0, 4) or jitter[3:] > (0.5,):
    raise errors.UsageError(
      f'config.data.color_jitter={jitter}: give four numbers, of brightness, '
      'contrast, saturation and hue, the last at most 0.5, or ()'
    )
  if config.teacher.cache_logits and (varied := _given(config, _VARYING)):
    raise errors.UsageError(
      f'{varied[0]}: with config.teacher.cache_logits=True a teacher sees the '
      'same images again; leave it out, or give False'
    )
  if how.mixes and method.needs_class:
    raise errors.UsageError(
      f'{given[0]} makes mixtures of two classes, and method {config.method} '
      'needs the class of each image: give 0'
    )
  if how.keeps_plain and not (how.mixes and method.teachers):
    raise errors.UsageError(
      "config.teacher.sees='plain' is for a teacher beside mixed images: take "
      "a method with one, and config.data.mixup or cutmix, or give 'mixed'"
    )
  if how.mixes and config.teacher.cache_logits and not how.keeps_plain:
    raise errors.UsageError(
      f'{given[0]}: with config.teacher.cache_logits=True a teacher does not '
      "see the mixtures; give config.teacher.sees='plain', or False"
    )
