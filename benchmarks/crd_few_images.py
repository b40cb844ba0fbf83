"""CRD, ResNet34 to ResNet18, with 1,024 negatives, for small training sets."""

from ml_collections import ConfigDict

from kd_jax import config


def get_config(recipe: str | None = None) -> ConfigDict:
  """Returns the recipe crd:imagenet_r34_r18 with 1,024 negatives.

  The recipe's own 16,384 negatives need a larger training set, as CRD draws
  them from the images of other classes.

  Args:
    recipe: Ignored.
  """
  del recipe
  config_dict = config.imagenet()
  config_dict.method = 'crd'
  config_dict.method_args = ConfigDict({'negatives': 1024})
  config_dict.weights = ConfigDict({'ce': 1.0, 'kd': 0.0, 'crd': 0.8})
  return config_dict
