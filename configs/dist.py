"""DIST: Huang et al., "Knowledge Distillation from A Stronger Teacher", 2022.

python -m kd_jax.main --config configs/dist.py
"""

from kd_jax import config as base


def get_config(recipe: str | None = None) -> base.ConfigDict:
  """The recipe's configuration."""
  return base.pick(recipe, RECIPES)


def digits() -> base.ConfigDict:
  """300 embedded images of digits, 8x8 pixels; a minute on a laptop.

  At the paper's T=1 for ImageNet, which gave 94.7% with seed 0 where T=4 gave
  92.5%.
  """
  return dist(base.digits(), weight=2.0, temperature=1.0)


def cifar100_r32x4_r8x4() -> base.ConfigDict:
  """resnet32x4 to resnet8x4 on CIFAR-100.

  Published: 76.31% top-1, +-0.19 (the paper; teacher 79.42, student alone
  72.50). Weights 2 and 2 at T=4 are recalled and not verified; the schedule is
  RepDistiller's.

    python -m kd_jax.main --config configs/dist.py:cifar100_r32x4_r8x4
  """
  return dist(base.pair(), weight=2.0, temperature=4.0)


def dist(
  config: base.ConfigDict, weight: float, temperature: float
) -> base.ConfigDict:
  """Adds the method, both its terms with one weight."""
  config.method = 'dist'
  config.method_args = base.ConfigDict({'dist_temperature': temperature})
  config.weights = base.ConfigDict(
    {'ce': 1.0, 'kd': 0.0, 'inter': weight, 'intra': weight}
  )
  return config


RECIPES = {'digits': digits, 'cifar100_r32x4_r8x4': cifar100_r32x4_r8x4}
