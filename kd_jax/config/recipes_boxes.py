"""Building blocks of the recipes for objects with boxes."""

from ml_collections import ConfigDict

from kd_jax.config import schema

# Steps of an epoch of VOC's 16,551 images, in batches of 32.
_STEPS = 517


def voc_boxes(student: str) -> ConfigDict:
  """Returns an SSD300 trained alone on VOC 2007 and 2012, by ssd.pytorch.

  Its 120,000 steps are 232 epochs, which is 56 steps less; the rate drops after
  80,000 and 100,000 steps, as there. The code begins with a backbone from
  ImageNet, as does `config.student.init` where it names the file of a
  classifier; without it the start is at random. Images are normalised as
  ImageNet's.

  Args:
    student: The network's name.
  """
  config = schema.default()
  config.data.name = 'voc_boxes:pascal'
  config.data.image_size = 300
  config.data.augment = 'detection'
  config.student = schema.network(student)
  config.epochs, config.batch_size = 232, 32
  config.optimizer.learning_rate = _rate()
  config.eval_batch_size = 32  # detections take more memory than images
  config.eval_every = 8.0
  return config


def voc_boxes_pair(teacher: str, student: str) -> ConfigDict:
  """Returns two SSD300 with the schedule of `voc_boxes` each.

  Args:
    teacher: The teacher's name.
    student: The student's name.
  """
  config = voc_boxes(student)
  config.teacher.update(schema.network(teacher))
  config.teacher.recipe = ConfigDict(
    {
      'seed': 0,
      'epochs': config.epochs,
      'batch_size': config.batch_size,
      'optimizer': {'learning_rate': _rate()},
    }
  )
  return config


def _rate() -> ConfigDict:
  return schema.step_schedule(1e-3, (80_000 / _STEPS, 100_000 / _STEPS))
