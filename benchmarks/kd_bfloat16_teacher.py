"""KD, resnet32x4 to resnet8x4 in float32, with the teacher in bfloat16."""

from ml_collections import ConfigDict

from kd_jax import config


def get_config(recipe: str | None = None) -> ConfigDict:
  """Returns `kd:cifar100_r32x4_r8x4` with `config.teacher.dtype='bfloat16'`.

  Args:
    recipe: Ignored.
  """
  del recipe
  config_dict = config.pair('resnet32x4', 'resnet8x4')
  config_dict.method = 'kd'
  config_dict.weights = ConfigDict({'ce': 0.1, 'kd': 0.9})
  config_dict.teacher.dtype = 'bfloat16'
  return config_dict
