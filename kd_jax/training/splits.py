"""The splits of a run: on the devices if they fit, else streamed."""

from collections.abc import Callable
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from kd_jax import tasks
from kd_jax.data import (
  augment,
  augment_boxes,
  augment_masks,
  dataset,
  resident,
  shaped,
  source,
  stream,
)
from kd_jax.distill import augmented, build


def protocol(config: ConfigDict, task: tasks.Task) -> str:
  """Returns when and how the result of a run is measured.

  Args:
    config: The configuration of the run.
    task: The task of its data set.
  """
  is_masked = task.name == 'segmentation'
  how = f', {config.data.eval_protocol}' if is_masked else ''
  return f'last epoch{how}'


def tests(
  config: ConfigDict, parts: build.Parts, say: Callable[[str], None]
) -> dict[str, dataset.EvalSet]:
  """Returns the splits to evaluate, by name.

  Args:
    config: The configuration of the run.
    parts: The parts of the run.
    say: A function that prints a line for the user.
  """
  info = parts.source.info
  counts = {'val': info.num_val, 'test': info.num_test}
  return {
    name: split(config, parts, say, name)
    for name, count in counts.items()
    if count
  }


def split(
  config: ConfigDict, parts: build.Parts, say: Callable[[str], None], name: str
) -> dataset.EvalSet:
  """Returns a split to evaluate: on the devices if it fits, else streamed.

  By a protocol that keeps the images' shapes it is streamed.

  Args:
    config: The configuration of the run.
    parts: The parts of the run.
    say: A function that prints a line for the user.
    name: The name of the split.
  """
  info, how = parts.source.info, config.data.eval_protocol
  if how == 'square' and augmented.resident(config, info, name):
    return resident.Resident(parts.source.arrays(name, say), info, parts.mesh)
  images = parts.source.split(name)
  return streamed(images, info, parts.mesh, how, config.data.workers)


def streamed(
  images: source.Images,
  info: source.Info,
  mesh: Mesh,
  eval_protocol: str,
  workers: int,
) -> dataset.EvalSet:
  """Returns a split to evaluate, streamed.

  Args:
    images: The split.
    info: The facts of its data set.
    mesh: The devices.
    eval_protocol: One of `shaped.PROTOCOLS`.
    workers: The number of worker processes; 0 decodes in this process.

  Raises:
    UsageError: The images cannot be evaluated by this protocol.
  """
  if eval_protocol == 'square':
    return stream.Streamed(images, info, mesh, workers=workers)
  return shaped.Shaped(images, info, mesh, eval_protocol, workers=workers)


def training(
  config: ConfigDict, parts: build.Parts, say: Callable[[str], None]
) -> dataset.TrainSet:
  """Returns the training split: on the devices if it fits, else streamed.

  Args:
    config: The configuration of the run.
    parts: The parts of the run.
    say: A function that prints a line for the user.
  """
  info, data_options = parts.source.info, config.data
  how = data_options.augment
  padding = data_options.crop_padding if how == 'crop_flip' else 0
  crop_flip = augment.CropFlip(
    padding, data_options.padding_mode, data_options.flip
  )
  common: dict[str, Any] = {
    'batch_size': config.batch_size,
    'seed': config.seed,
    'crop_flip': crop_flip,
    'mixed': augmented.mixed(config, len(info.class_names)),
  }
  if augmented.resident(config, info, 'train'):
    arrays = parts.source.arrays('train', say)
    return resident.Training(arrays, info, parts.mesh, **common)
  if varied := augmented.varied(config, crop_flip, info):
    common |= {'varied': varied, 'crop_flip': None}
    by = augmented.by_workers(config)
    say(f'{by}: training images are augmented by workers, and streamed')
  masked = boxed = None
  if how == 'segmentation':  # mirrors too
    masked = augment_masks.Masked(
      info.image_size,
      tuple(data_options.scale),
      data_options.pad_label,
      data_options.flip,
    )
    common['crop_flip'] = None
  if how == 'detection':  # mirrors too
    boxed = augment_boxes.Boxed(
      info.image_size, info.mean, flip=data_options.flip
    )
    common['crop_flip'] = None
  return stream.Streamed(
    parts.source.split('train'),
    info,
    parts.mesh,
    workers=data_options.workers,
    steps=parts.total_steps,
    area=tuple(data_options.area) if how == 'random_resized_crop' else (),
    masked=masked,
    boxed=boxed,
    fast=data_options.fast_decode,
    **common,
  )
