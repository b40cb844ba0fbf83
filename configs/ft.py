"""FT: Kim et al., "Paraphrasing Complex Network: Network Compression via Factor
Transfer", NeurIPS 2018.

  python -m kd_jax.main --config configs/ft.py
"""

from kd_jax import config as base


def get_config(recipe: str | None = None) -> base.ConfigDict:
  """Returns the configuration of a recipe; None takes `digits`."""
  return base.pick(recipe, RECIPES)


def digits() -> base.ConfigDict:
  """300 embedded images of digits, 8x8 pixels; a minute on a laptop.

  The weight is 1/4 of the paper's, because a map normalised to length 1 has
  entries four times as large on 2x2 positions as on 8x8. (A weight of 200 gives
  87.72% over seeds 100 to 104, 7.8 points below the student trained alone.)
  """
  config = ft(base.digits(), epochs=10)
  config.weights.ft = 50.0
  return config


def cifar100_r32x4_r8x4() -> base.ConfigDict:
  """resnet32x4 to resnet8x4 on CIFAR-100: 30 and then 240 epochs.

  The first phase trains the paraphraser.

  Published: 72.86% top-1 (RepDistiller's README; teacher 79.42, student alone
  72.50).

    python -m kd_jax.main --config configs/ft.py:cifar100_r32x4_r8x4
  """
  return ft(base.pair(), epochs=30)


def cifar100(pair: str) -> base.ConfigDict:
  """Returns RepDistiller's recipe for a pair in `base.PAIRS`."""
  return ft(base.benchmark(pair), epochs=30)


def ft(config: base.ConfigDict, epochs: int) -> base.ConfigDict:
  """Adds the method: a phase for the paraphraser, which is then frozen.

  Args:
    config: The configuration, which is changed and returned.
    epochs: The epochs of the phase that trains the paraphraser alone.
  """
  config.method = 'ft'
  config.method_args = base.ConfigDict(
    {'taps': base.stages(config)[-1:], 'rate': 0.5}
  )
  config.weights = base.ConfigDict(
    {'ce': 1.0, 'kd': 0.0, 'ft': 200.0, 'reconstruction': 0.0}
  )
  config.trainable = ('^student/', '^method/translator')
  resnet = config.student.name.startswith(('resnet', 'wrn'))
  return base.initialised(
    config,
    epochs=epochs,
    weights={'ce': 0.0, 'ft': 0.0, 'reconstruction': 1.0},
    trainable=('^method/paraphraser',),
    # The base learning rate for students other than ResNets.
    learning_rate=0.01 if resnet else None,
  )


# Top-1 in percent, by pair, of RepDistiller's README (one GPU, last epoch).
PUBLISHED = {
  'wrn_40_2_wrn_16_2': 73.25,
  'wrn_40_2_wrn_40_1': 71.59,
  'r56_r20': 69.84,
  'r110_r20': 70.22,
  'r110_r32': 72.37,
  'vgg13_vgg8': 70.58,
  'vgg13_mobilenetv2': 61.78,
  'r50_mobilenetv2': 60.99,
  'r50_vgg8': 70.29,
  'r32x4_shufflenetv1': 71.75,
  'r32x4_shufflenetv2': 72.50,
  'wrn_40_2_shufflenetv1': 72.03,
}
RECIPES = {
  'digits': digits,
  'cifar100_r32x4_r8x4': cifar100_r32x4_r8x4,
  **base.pairs(cifar100, PUBLISHED),
}
