"""DKD: Zhao et al., "Decoupled Knowledge Distillation", 2022.

python -m kd_jax.main --config configs/dkd.py
"""

from kd_jax import config as base


def get_config(recipe: str | None = None) -> base.ConfigDict:
  """Returns the configuration of a recipe; None takes `digits`."""
  return base.pick(recipe, RECIPES)


def digits() -> base.ConfigDict:
  """300 embedded images of digits, 8x8 pixels; a minute on a laptop."""
  return dkd(base.digits(), beta=8.0)


def cifar100_r32x4_r8x4() -> base.ConfigDict:
  """resnet32x4 to resnet8x4 on CIFAR-100, mdistiller's recipe.

  Published: 76.32% top-1 (mdistiller's README; teacher 79.42, student alone
  72.50).

    python -m kd_jax.main --config configs/dkd.py:cifar100_r32x4_r8x4
  """
  return cifar100('resnet32x4', 'resnet8x4', beta=8.0)


def cifar100_r110_r32() -> base.ConfigDict:
  """resnet110 to resnet32 on CIFAR-100, mdistiller's recipe.

  Published: 74.11% top-1 (mdistiller's README; teacher 74.31, student alone
  71.14).

    python -m kd_jax.main --config configs/dkd.py:cifar100_r110_r32
  """
  return cifar100('resnet110', 'resnet32', beta=2.0)


def cifar100_r56_r20() -> base.ConfigDict:
  """resnet56 to resnet20 on CIFAR-100, mdistiller's recipe.

  Published: 71.97% top-1 (mdistiller's README; teacher 72.34, student alone
  69.06).

    python -m kd_jax.main --config configs/dkd.py:cifar100_r56_r20
  """
  return cifar100('resnet56', 'resnet20', beta=2.0)


def cifar100(teacher: str, student: str, beta: float) -> base.ConfigDict:
  """Returns mdistiller's recipe, which equals the defaults, for a pair."""
  config = base.pair(teacher, student)
  return dkd(config, beta)


def dkd(config: base.ConfigDict, beta: float) -> base.ConfigDict:
  """Adds the method to `config`; its weight warms up over 20 epochs."""
  config.method = 'dkd'
  config.method_args = base.ConfigDict(
    {'alpha': 1.0, 'beta': beta, 'temperature': 4.0}
  )
  config.weights = base.ConfigDict(
    {'ce': 1.0, 'kd': 0.0, 'dkd': base.warmed_up(1.0, 20)}
  )
  return config


RECIPES = {
  'digits': digits,
  'cifar100_r32x4_r8x4': cifar100_r32x4_r8x4,
  'cifar100_r110_r32': cifar100_r110_r32,
  'cifar100_r56_r20': cifar100_r56_r20,
}
