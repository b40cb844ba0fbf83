"""ReviewKD: Chen et al., "Distilling Knowledge via Knowledge Review", 2021.

python -m kd_jax.main --config configs/reviewkd.py
"""

from kd_jax import config as base


def get_config(recipe: str | None = None) -> base.ConfigDict:
  """Returns the configuration of a recipe; None takes `digits`."""
  return base.pick(recipe, RECIPES)


def digits() -> base.ConfigDict:
  """300 embedded images of digits, 8x8 pixels; a minute on a laptop."""
  return reviewkd(base.digits(), weight=5.0)


def cifar100_r32x4_r8x4() -> base.ConfigDict:
  """resnet32x4 to resnet8x4 on CIFAR-100, mdistiller's recipe.

  The authors' recipe has batch size 128 and learning rate 0.1. Published for
  this pair: 75.63% top-1, cited from memory and not verified (teacher 79.42,
  student alone 72.50).

    python -m kd_jax.main --config configs/reviewkd.py:cifar100_r32x4_r8x4
  """
  return cifar100('resnet32x4', 'resnet8x4', weight=5.0)


def cifar100_r110_r32() -> base.ConfigDict:
  """resnet110 to resnet32 on CIFAR-100, mdistiller's recipe.

  python -m kd_jax.main --config configs/reviewkd.py:cifar100_r110_r32
  """
  return cifar100('resnet110', 'resnet32', weight=1.0)


def cifar100_r56_r20() -> base.ConfigDict:
  """resnet56 to resnet20 on CIFAR-100, mdistiller's recipe.

  python -m kd_jax.main --config configs/reviewkd.py:cifar100_r56_r20
  """
  return cifar100('resnet56', 'resnet20', weight=0.6)


def cifar100(teacher: str, student: str, weight: float) -> base.ConfigDict:
  """Returns mdistiller's recipe, which equals the defaults, for a pair."""
  config = base.pair(teacher, student)
  return reviewkd(config, weight)


def reviewkd(config: base.ConfigDict, weight: float) -> base.ConfigDict:
  """Adds the method to `config`; its weight warms up over 20 epochs."""
  config.method = 'reviewkd'
  config.weights = base.ConfigDict(
    {'ce': 1.0, 'kd': 0.0, 'reviewkd': base.warmed_up(weight, 20)}
  )
  return config


RECIPES = {
  'digits': digits,
  'cifar100_r32x4_r8x4': cifar100_r32x4_r8x4,
  'cifar100_r110_r32': cifar100_r110_r32,
  'cifar100_r56_r20': cifar100_r56_r20,
}
