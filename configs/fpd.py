"""FPD: Wang et al., "Feature Pyramid Knowledge Distillation", ICONIP 2022.

The method is a reconstruction (see kd_jax/methods/fpd.py): what the paper's
abstract leaves open is our choice.

  python -m kd_jax.main --config configs/fpd.py
"""

from kd_jax import config as base


def get_config(recipe: str | None = None) -> base.ConfigDict:
  """The recipe's configuration."""
  return base.pick(recipe, RECIPES)


def digits() -> base.ConfigDict:
  """300 embedded images of digits, 8x8 pixels; minutes on a laptop."""
  config = base.digits()
  config.method = 'fpd'
  config.method_args = method_args(width=64)
  config.weights = base.ConfigDict({'ce': 0.1, 'kd': 0.8, 'fpd': 0.1})
  return config


def method_args(**changes) -> base.ConfigDict:
  """Every option of the method; see kd_jax/methods/fpd.py."""
  return base.ConfigDict(
    {
      'taps': ('stem', 'stage1', 'stage2', 'stage3'),
      'version': 'A',
      'width': 256,
      'se_reduction': 16,
      'widened': (32, 64, 128, 256),
      'temperature': 4.0,
      'guided': False,
      'stop_grad_teacher_pyramid': False,
      **changes,
    }
  )


RECIPES = {'digits': digits}
