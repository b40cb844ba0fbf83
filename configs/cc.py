"""CC: Peng et al., "Correlation Congruence for Knowledge Distillation", 2019.

python -m kd_jax.main --config configs/cc.py
"""

from kd_jax import config as base


def get_config(recipe: str | None = None) -> base.ConfigDict:
  """Returns the configuration of a recipe; None takes `digits`."""
  return base.pick(recipe, RECIPES)


def digits() -> base.ConfigDict:
  """300 embedded images of digits, 8x8 pixels; a minute on a laptop."""
  return cc(base.digits(), weight=0.02)


def cifar100_r32x4_r8x4() -> base.ConfigDict:
  """resnet32x4 to resnet8x4 on CIFAR-100, RepDistiller's recipe.

  Published: 72.97% top-1 (RepDistiller's README; teacher 79.42, student alone
  72.50).

    python -m kd_jax.main --config configs/cc.py:cifar100_r32x4_r8x4
  """
  return cc(base.pair(), weight=0.02)


def cc(config: base.ConfigDict, weight: float) -> base.ConfigDict:
  """Adds the method to `config`; RepDistiller's weight is 0.02."""
  config.method = 'cc'
  config.method_args = base.ConfigDict({'width': 128})
  config.weights = base.ConfigDict({'ce': 1.0, 'kd': 0.0, 'cc': weight})
  return config


RECIPES = {'digits': digits, 'cifar100_r32x4_r8x4': cifar100_r32x4_r8x4}
