"""KD, resnet32x4 to resnet8x4, whose teacher is asked once for each image."""

from ml_collections import ConfigDict

from kd_jax import config


def get_config(recipe: str | None = None) -> ConfigDict:
  """Images are mirrored, not cropped: the teacher sees two views of each."""
  del recipe
  made = config.pair('resnet32x4', 'resnet8x4')
  made.method = 'kd'
  made.weights = ConfigDict({'ce': 0.1, 'kd': 0.9})
  made.data.crop_padding = 0
  made.teacher.cache_logits = True
  return made
