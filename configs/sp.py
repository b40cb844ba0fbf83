"""SP: Tung & Mori, "Similarity-Preserving Knowledge Distillation", ICCV 2019.

python -m kd_jax.main --config configs/sp.py
"""

from kd_jax import config as base


def get_config(recipe: str | None = None) -> base.ConfigDict:
  """Returns the configuration of a recipe; None takes `digits`."""
  return base.pick(recipe, RECIPES)


def digits() -> base.ConfigDict:
  """300 embedded images of digits, 8x8 pixels; a minute on a laptop."""
  return sp(base.digits(), weight=3000.0)


def cifar100_r32x4_r8x4() -> base.ConfigDict:
  """resnet32x4 to resnet8x4 on CIFAR-100, RepDistiller's recipe.

  Published: 72.94% top-1 (RepDistiller's README; teacher 79.42, student alone
  72.50).

    python -m kd_jax.main --config configs/sp.py:cifar100_r32x4_r8x4
  """
  return sp(base.pair(), weight=3000.0)


def cifar100(pair: str) -> base.ConfigDict:
  """Returns RepDistiller's recipe for a pair in `base.PAIRS`."""
  return sp(base.benchmark(pair), weight=3000.0)


def sp(config: base.ConfigDict, weight: float) -> base.ConfigDict:
  """Adds the method to `config`; RepDistiller's weight is 3000."""
  config.method = 'sp'
  config.method_args = base.ConfigDict({'taps': base.stages(config)[-1:]})
  config.weights = base.ConfigDict({'ce': 1.0, 'kd': 0.0, 'sp': weight})
  return config


# Top-1 in percent, by pair, of RepDistiller's README (one GPU, last epoch).
PUBLISHED = {
  'wrn_40_2_wrn_16_2': 73.83,
  'wrn_40_2_wrn_40_1': 72.43,
  'r56_r20': 69.67,
  'r110_r20': 70.04,
  'r110_r32': 72.69,
  'vgg13_vgg8': 72.68,
  'vgg13_mobilenetv2': 66.30,
  'r50_mobilenetv2': 68.08,
  'r50_vgg8': 73.34,
  'r32x4_shufflenetv1': 73.48,
  'r32x4_shufflenetv2': 74.56,
  'wrn_40_2_shufflenetv1': 74.52,
}
RECIPES = {
  'digits': digits,
  'cifar100_r32x4_r8x4': cifar100_r32x4_r8x4,
  **base.pairs(cifar100, PUBLISHED),
}
