"""KD, resnet32x4 to resnet8x4, with the teacher's logits cached."""

from ml_collections import ConfigDict

from kd_jax import config


def get_config(recipe: str | None = None) -> ConfigDict:
  """Returns the configuration, in which the teacher evaluates each view once.

  Images are mirrored and not cropped, so that there are two views of each.

  Args:
    recipe: Ignored.
  """
  del recipe
  config_dict = config.pair('resnet32x4', 'resnet8x4')
  config_dict.method = 'kd'
  config_dict.weights = ConfigDict({'ce': 0.1, 'kd': 0.9})
  config_dict.data.crop_padding = 0
  config_dict.teacher.cache_logits = True
  return config_dict
