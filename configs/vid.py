"""VID: Ahn et al., "Variational Information Distillation", CVPR 2019.

python -m kd_jax.main --config configs/vid.py
"""

from kd_jax import config as base


def get_config(recipe: str | None = None) -> base.ConfigDict:
  """Returns the configuration of a recipe; None takes `digits`."""
  return base.pick(recipe, RECIPES)


def digits() -> base.ConfigDict:
  """300 embedded images of digits, 8x8 pixels; a minute on a laptop."""
  return vid(base.digits())


def cifar100_r32x4_r8x4() -> base.ConfigDict:
  """resnet32x4 to resnet8x4 on CIFAR-100, RepDistiller's recipe.

  Published: 73.09% top-1 (RepDistiller's README; teacher 79.42, student alone
  72.50).

    python -m kd_jax.main --config configs/vid.py:cifar100_r32x4_r8x4
  """
  return vid(base.pair())


def vid(config: base.ConfigDict) -> base.ConfigDict:
  """Adds the method to `config`, with RepDistiller's weight."""
  config.method = 'vid'
  config.method_args = base.ConfigDict({'taps': ('stage1', 'stage2', 'stage3')})
  config.weights = base.ConfigDict({'ce': 1.0, 'kd': 0.0, 'vid': 1.0})
  return config


RECIPES = {'digits': digits, 'cifar100_r32x4_r8x4': cifar100_r32x4_r8x4}
