"""AT: Zagoruyko & Komodakis, "Paying More Attention to Attention", ICLR 2017.

python -m kd_jax.main --config configs/at.py
"""

from kd_jax import config as base


def get_config(recipe: str | None = None) -> base.ConfigDict:
  """Returns the configuration of a recipe; None takes `digits`."""
  return base.pick(recipe, RECIPES)


def digits() -> base.ConfigDict:
  """300 embedded images of digits, 8x8 pixels; a minute on a laptop.

  The weight is 1/16 of RepDistiller's, because the feature maps have 1/16 of
  the positions that they have on CIFAR, and the distance is a mean over
  positions. With a weight of 1000 the student ends at 81% (one seed), far below
  the student trained alone.
  """
  return at(base.digits(), weight=62.5)


def scenes_segmentation() -> base.ConfigDict:
  """3,000 embedded scenes of digits with masks; minutes on a laptop.

  The weight is half of RepDistiller's, because the feature maps have about half
  of the positions that they have on CIFAR. It is not tuned.
  """
  return at(base.scenes_segmentation(), weight=500.0)


def cifar100_r32x4_r8x4() -> base.ConfigDict:
  """resnet32x4 to resnet8x4 on CIFAR-100, RepDistiller's recipe.

  Published: 73.44% top-1 (RepDistiller's README; teacher 79.42, student alone
  72.50).

    python -m kd_jax.main --config configs/at.py:cifar100_r32x4_r8x4
  """
  return at(base.pair(), weight=1000.0)


def cifar100(pair: str) -> base.ConfigDict:
  """Returns RepDistiller's recipe for a pair in `base.PAIRS`."""
  return at(base.benchmark(pair), weight=1000.0)


def at(config: base.ConfigDict, weight: float) -> base.ConfigDict:
  """Adds the method to `config`; RepDistiller's weight is 1000."""
  config.method = 'at'
  config.method_args = base.ConfigDict({'taps': base.stages(config)})
  config.weights = base.ConfigDict({'ce': 1.0, 'kd': 0.0, 'at': weight})
  return config


# Top-1 in percent, by pair, of RepDistiller's README (one GPU, last epoch).
PUBLISHED = {
  'wrn_40_2_wrn_16_2': 74.08,
  'wrn_40_2_wrn_40_1': 72.77,
  'r56_r20': 70.55,
  'r110_r20': 70.22,
  'r110_r32': 72.31,
  'vgg13_vgg8': 71.43,
  'vgg13_mobilenetv2': 59.40,
  'r50_mobilenetv2': 58.58,
  'r50_vgg8': 71.84,
  'r32x4_shufflenetv1': 71.73,
  'r32x4_shufflenetv2': 72.73,
  'wrn_40_2_shufflenetv1': 73.32,
}
RECIPES = {
  'digits': digits,
  'scenes_segmentation': scenes_segmentation,
  'cifar100_r32x4_r8x4': cifar100_r32x4_r8x4,
  **base.pairs(cifar100, PUBLISHED),
}
