"""PKT: Passalis & Tefas, "Probabilistic Knowledge Transfer", ECCV 2018.

python -m kd_jax.main --config configs/pkt.py
"""

from kd_jax import config as base


def get_config(recipe: str | None = None) -> base.ConfigDict:
  """Returns the configuration of a recipe; None takes `digits`."""
  return base.pick(recipe, RECIPES)


def digits() -> base.ConfigDict:
  """300 embedded images of digits, 8x8 pixels; a minute on a laptop."""
  return pkt(base.digits(), weight=30000.0)


def cifar100_r32x4_r8x4() -> base.ConfigDict:
  """resnet32x4 to resnet8x4 on CIFAR-100, RepDistiller's recipe.

  Published: 73.64% top-1 (RepDistiller's README; teacher 79.42, student alone
  72.50).

    python -m kd_jax.main --config configs/pkt.py:cifar100_r32x4_r8x4
  """
  return pkt(base.pair(), weight=30000.0)


def cifar100(pair: str) -> base.ConfigDict:
  """Returns RepDistiller's recipe for a pair in `base.PAIRS`."""
  return pkt(base.benchmark(pair), weight=30000.0)


def pkt(config: base.ConfigDict, weight: float) -> base.ConfigDict:
  """Adds the method to `config`; RepDistiller's weight is 30000."""
  config.method = 'pkt'
  config.method_args = base.ConfigDict({'taps': ('pooled',)})
  config.weights = base.ConfigDict({'ce': 1.0, 'kd': 0.0, 'pkt': weight})
  return config


# Top-1 in percent, by pair, of RepDistiller's README (one GPU, last epoch).
PUBLISHED = {
  'wrn_40_2_wrn_16_2': 74.54,
  'wrn_40_2_wrn_40_1': 73.45,
  'r56_r20': 70.34,
  'r110_r20': 70.25,
  'r110_r32': 72.61,
  'vgg13_vgg8': 72.88,
  'vgg13_mobilenetv2': 67.13,
  'r50_mobilenetv2': 66.52,
  'r50_vgg8': 73.01,
  'r32x4_shufflenetv1': 74.10,
  'r32x4_shufflenetv2': 74.69,
  'wrn_40_2_shufflenetv1': 73.89,
}
RECIPES = {
  'digits': digits,
  'cifar100_r32x4_r8x4': cifar100_r32x4_r8x4,
  **base.pairs(cifar100, PUBLISHED),
}
