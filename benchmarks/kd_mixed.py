"""KD, resnet32x4 to resnet8x4, with mixing, smoothing and an average."""

from ml_collections import ConfigDict

from kd_jax import config


def get_config(recipe: str | None = None) -> ConfigDict:
  """Returns the configuration: RepDistiller's, and what is named.

  Args:
    recipe: What is on, with + between: any of 'mixup', 'cutmix', 'smoothing'
      and 'ema'; None is all of them, '' nothing.
  """
  config_dict = config.pair('resnet32x4', 'resnet8x4')
  config_dict.method = 'kd'
  config_dict.weights = ConfigDict({'ce': 0.1, 'kd': 0.9})
  on = 'mixup+cutmix+smoothing+ema' if recipe is None else recipe
  for name, (key, value) in {
    'mixup': ('data.mixup', 0.2),
    'cutmix': ('data.cutmix', 1.0),
    'smoothing': ('data.label_smoothing', 0.1),
    'ema': ('ema', 0.999),
  }.items():
    if name in on.split('+'):
      config_dict.update_from_flattened_dict({key: value})
  return config_dict
