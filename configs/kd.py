"""KD: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015.

python -m kd_jax.main --config configs/kd.py
"""

from kd_jax import config as base


def get_config(recipe: str | None = None) -> base.ConfigDict:
  """The recipe's configuration."""
  return base.pick(recipe, RECIPES)


def digits() -> base.ConfigDict:
  """300 embedded images of digits, 8x8 pixels; a minute on a laptop."""
  config = base.digits()
  config.method = 'kd'
  config.method_args = base.ConfigDict({'temperature': 4.0})
  config.weights = base.ConfigDict({'ce': 0.1, 'kd': 0.9})
  return config


RECIPES = {'digits': digits}
