"""CRD, ResNet34 to ResNet18, with 1,024 negatives: for a set of few images."""

from ml_collections import ConfigDict

from kd_jax import config


def get_config(recipe: str | None = None) -> ConfigDict:
  """As configs/crd.py:imagenet_r34_r18, whose 16,384 negatives need more."""
  del recipe
  made = config.imagenet()
  made.method = 'crd'
  made.method_args = ConfigDict({'negatives': 1024})
  made.weights = ConfigDict({'ce': 1.0, 'kd': 0.0, 'crd': 0.8})
  return made
