"""RKD: Park et al., "Relational Knowledge Distillation", CVPR 2019.

python -m kd_jax.main --config configs/rkd.py
"""

from kd_jax import config as base


def get_config(recipe: str | None = None) -> base.ConfigDict:
  """Returns the configuration of a recipe; None takes `digits`."""
  return base.pick(recipe, RECIPES)


def digits() -> base.ConfigDict:
  """300 embedded images of digits, 8x8 pixels; a minute on a laptop."""
  return rkd(base.digits())


def cifar100_r32x4_r8x4() -> base.ConfigDict:
  """resnet32x4 to resnet8x4 on CIFAR-100, RepDistiller's recipe.

  Published: 71.90% top-1 (RepDistiller's README; teacher 79.42, student alone
  72.50).

    python -m kd_jax.main --config configs/rkd.py:cifar100_r32x4_r8x4
  """
  return rkd(base.pair())


def cifar100(pair: str) -> base.ConfigDict:
  """Returns RepDistiller's recipe for a pair in `base.PAIRS`."""
  return rkd(base.benchmark(pair))


def rkd(config: base.ConfigDict) -> base.ConfigDict:
  """Adds the method to `config`, with RepDistiller's weights."""
  config.method = 'rkd'
  config.method_args = base.ConfigDict({'taps': ('pooled',)})
  config.weights = base.ConfigDict(
    {'ce': 1.0, 'kd': 0.0, 'rkd_distance': 25.0, 'rkd_angle': 50.0}
  )
  return config


# Top-1 in percent, by pair, of RepDistiller's README (one GPU, last epoch).
PUBLISHED = {
  'wrn_40_2_wrn_16_2': 73.35,
  'wrn_40_2_wrn_40_1': 72.22,
  'r56_r20': 69.61,
  'r110_r20': 69.25,
  'r110_r32': 71.82,
  'vgg13_vgg8': 71.48,
  'vgg13_mobilenetv2': 64.52,
  'r50_mobilenetv2': 64.43,
  'r50_vgg8': 71.50,
  'r32x4_shufflenetv1': 72.28,
  'r32x4_shufflenetv2': 73.21,
  'wrn_40_2_shufflenetv1': 72.21,
}
RECIPES = {
  'digits': digits,
  'cifar100_r32x4_r8x4': cifar100_r32x4_r8x4,
  **base.pairs(cifar100, PUBLISHED),
}
