"""PEFD: Chen et al., "Improved Feature Distillation via Projector Ensemble",
2022.

python -m kd_jax.main --config configs/pefd.py
"""

from kd_jax import config as base


def get_config(recipe: str | None = None) -> base.ConfigDict:
  """Returns the configuration of a recipe; None takes `digits`."""
  return base.pick(recipe, RECIPES)


def digits() -> base.ConfigDict:
  """300 embedded images of digits, 8x8 pixels; a minute on a laptop."""
  return pefd(base.digits())


def cifar100_r32x4_r8x4() -> base.ConfigDict:
  """resnet32x4 to resnet8x4 on CIFAR-100, RepDistiller's schedule.

  python -m kd_jax.main --config configs/pefd.py:cifar100_r32x4_r8x4
  """
  return pefd(base.pair())


def pefd(config: base.ConfigDict) -> base.ConfigDict:
  """Adds the method to `config`, with the released weights."""
  config.method = 'pefd'
  config.method_args = base.ConfigDict({'taps': ('pooled',), 'projectors': 3})
  config.weights = base.ConfigDict({'ce': 1.0, 'kd': 0.0, 'pefd': 25.0})
  return config


RECIPES = {
  'digits': digits,
  'cifar100_r32x4_r8x4': cifar100_r32x4_r8x4,
}
