"""FitNet: Romero et al., "FitNets: Hints for Thin Deep Nets", 2015.

python -m kd_jax.main --config configs/fitnet.py
"""

from kd_jax import config as base


def get_config(recipe: str | None = None) -> base.ConfigDict:
  """Returns the configuration of a recipe; None takes `digits`."""
  return base.pick(recipe, RECIPES)


def digits() -> base.ConfigDict:
  """300 embedded images of digits, 8x8 pixels; a minute on a laptop."""
  return fitnet(base.digits())


def scenes_segmentation() -> base.ConfigDict:
  """3,000 embedded scenes of digits with masks; minutes on a laptop.

  The weight is ours and not tuned.
  """
  config = fitnet(base.scenes_segmentation())
  config.weights.fitnet = 1.0
  return config


def cifar100_r32x4_r8x4() -> base.ConfigDict:
  """resnet32x4 to resnet8x4 on CIFAR-100, RepDistiller's recipe.

  Published: 73.50% top-1 (RepDistiller's README; teacher 79.42, student alone
  72.50).

    python -m kd_jax.main --config configs/fitnet.py:cifar100_r32x4_r8x4
  """
  return fitnet(base.pair())


def cifar100(pair: str) -> base.ConfigDict:
  """Returns RepDistiller's recipe for a pair in `base.PAIRS`."""
  return fitnet(base.benchmark(pair))


def fitnet(config: base.ConfigDict) -> base.ConfigDict:
  """Adds the method to `config`, on the map of stage 2 with weight 100."""
  config.method = 'fitnet'
  config.method_args = base.ConfigDict({'taps': ('stage2',)})
  config.weights = base.ConfigDict({'ce': 1.0, 'kd': 0.0, 'fitnet': 100.0})
  return config


# Top-1 in percent, by pair, of RepDistiller's README (one GPU, last epoch).
PUBLISHED = {
  'wrn_40_2_wrn_16_2': 73.58,
  'wrn_40_2_wrn_40_1': 72.24,
  'r56_r20': 69.21,
  'r110_r20': 68.99,
  'r110_r32': 71.06,
  'vgg13_vgg8': 71.02,
  'vgg13_mobilenetv2': 64.14,
  'r50_mobilenetv2': 63.16,
  'r50_vgg8': 70.69,
  'r32x4_shufflenetv1': 73.59,
  'r32x4_shufflenetv2': 73.54,
  'wrn_40_2_shufflenetv1': 73.73,
}
RECIPES = {
  'digits': digits,
  'scenes_segmentation': scenes_segmentation,
  'cifar100_r32x4_r8x4': cifar100_r32x4_r8x4,
  **base.pairs(cifar100, PUBLISHED),
}
