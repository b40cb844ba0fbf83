"""FFSD of three resnet20 that run as one network."""

from ml_collections import ConfigDict

from kd_jax import config


def get_config(recipe: str | None = None) -> ConfigDict:
  """Returns `ffsd:cifar100_r20` with `config.batch_students=True`.

  Args:
    recipe: Ignored.
  """
  del recipe
  config_dict = config.load('ffsd:cifar100_r20')
  config_dict.batch_students = True
  return config_dict
