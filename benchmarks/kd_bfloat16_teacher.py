"""KD, resnet32x4 to resnet8x4 in float32, whose teacher is in bfloat16."""

from ml_collections import ConfigDict

from kd_jax import config


def get_config(recipe: str | None = None) -> ConfigDict:
  """`kd:cifar100_r32x4_r8x4` with `config.teacher.dtype='bfloat16'`."""
  del recipe
  made = config.pair('resnet32x4', 'resnet8x4')
  made.method = 'kd'
  made.weights = ConfigDict({'ce': 0.1, 'kd': 0.9})
  made.teacher.dtype = 'bfloat16'
  return made
