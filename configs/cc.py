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


def cifar100(pair: str) -> base.ConfigDict:
  """Returns RepDistiller's recipe for a pair in `base.PAIRS`."""
  return cc(base.benchmark(pair), weight=0.02)


def cc(config: base.ConfigDict, weight: float) -> base.ConfigDict:
  """Adds the method to `config`; RepDistiller's weight is 0.02."""
  config.method = 'cc'
  config.method_args = base.ConfigDict({'width': 128})
  config.weights = base.ConfigDict({'ce': 1.0, 'kd': 0.0, 'cc': weight})
  return config


# Top-1 in percent, by pair, of RepDistiller's README (one GPU, last epoch).
PUBLISHED = {
  'wrn_40_2_wrn_16_2': 73.56,
  'wrn_40_2_wrn_40_1': 72.21,
  'r56_r20': 69.63,
  'r110_r20': 69.48,
  'r110_r32': 71.48,
  'vgg13_vgg8': 70.71,
  'vgg13_mobilenetv2': 64.86,
  'r50_mobilenetv2': 65.43,
  'r50_vgg8': 70.25,
  'r32x4_shufflenetv1': 71.14,
  'r32x4_shufflenetv2': 71.29,
  'wrn_40_2_shufflenetv1': 71.38,
}
RECIPES = {
  'digits': digits,
  'cifar100_r32x4_r8x4': cifar100_r32x4_r8x4,
  **base.pairs(cifar100, PUBLISHED),
}
