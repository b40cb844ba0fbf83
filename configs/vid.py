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


def cifar100(pair: str) -> base.ConfigDict:
  """Returns RepDistiller's recipe for a pair in `base.PAIRS`."""
  return vid(base.benchmark(pair))


def vid(config: base.ConfigDict) -> base.ConfigDict:
  """Adds the method to `config`, with RepDistiller's weight."""
  config.method = 'vid'
  config.method_args = base.ConfigDict({'taps': base.stages(config)})
  config.weights = base.ConfigDict({'ce': 1.0, 'kd': 0.0, 'vid': 1.0})
  return config


# Top-1 in percent, by pair, of RepDistiller's README (one GPU, last epoch).
PUBLISHED = {
  'wrn_40_2_wrn_16_2': 74.11,
  'wrn_40_2_wrn_40_1': 73.30,
  'r56_r20': 70.38,
  'r110_r20': 70.16,
  'r110_r32': 72.61,
  'vgg13_vgg8': 71.23,
  'vgg13_mobilenetv2': 65.56,
  'r50_mobilenetv2': 67.57,
  'r50_vgg8': 70.30,
  'r32x4_shufflenetv1': 73.38,
  'r32x4_shufflenetv2': 73.40,
  'wrn_40_2_shufflenetv1': 73.61,
}
RECIPES = {
  'digits': digits,
  'cifar100_r32x4_r8x4': cifar100_r32x4_r8x4,
  **base.pairs(cifar100, PUBLISHED),
}
