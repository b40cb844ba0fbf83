"""NST: Huang & Wang, "Like What You Like", 2017.

python -m kd_jax.main --config configs/nst.py
"""

from kd_jax import config as base


def get_config(recipe: str | None = None) -> base.ConfigDict:
  """Returns the configuration of a recipe; None takes `digits`."""
  return base.pick(recipe, RECIPES)


def digits() -> base.ConfigDict:
  """300 embedded images of digits, 8x8 pixels; a minute on a laptop."""
  return nst(base.digits(), weight=50.0)


def cifar100_r32x4_r8x4() -> base.ConfigDict:
  """resnet32x4 to resnet8x4 on CIFAR-100, RepDistiller's recipe.

  Published: 73.30% top-1 (RepDistiller's README; teacher 79.42, student alone
  72.50).

    python -m kd_jax.main --config configs/nst.py:cifar100_r32x4_r8x4
  """
  return nst(base.pair(), weight=50.0)


def cifar100(pair: str) -> base.ConfigDict:
  """Returns RepDistiller's recipe for a pair in `base.PAIRS`."""
  return nst(base.benchmark(pair), weight=50.0)


def nst(config: base.ConfigDict, weight: float) -> base.ConfigDict:
  """Adds the method to `config`; RepDistiller's weight is 50."""
  config.method = 'nst'
  config.method_args = base.ConfigDict({'taps': base.stages(config)})
  config.weights = base.ConfigDict({'ce': 1.0, 'kd': 0.0, 'nst': weight})
  return config


# Top-1 in percent, by pair, of RepDistiller's README (one GPU, last epoch).
PUBLISHED = {
  'wrn_40_2_wrn_16_2': 73.68,
  'wrn_40_2_wrn_40_1': 72.24,
  'r56_r20': 69.60,
  'r110_r20': 69.53,
  'r110_r32': 71.96,
  'vgg13_vgg8': 71.53,
  'vgg13_mobilenetv2': 58.16,
  'r50_mobilenetv2': 64.96,
  'r50_vgg8': 71.28,
  'r32x4_shufflenetv1': 74.12,
  'r32x4_shufflenetv2': 74.68,
  'wrn_40_2_shufflenetv1': 74.89,
}
RECIPES = {
  'digits': digits,
  'cifar100_r32x4_r8x4': cifar100_r32x4_r8x4,
  **base.pairs(cifar100, PUBLISHED),
}
