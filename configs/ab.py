"""AB: Heo et al., "Knowledge Transfer via Distillation of Activation Boundaries
Formed by Hidden Neurons", AAAI 2019.

  python -m kd_jax.main --config configs/ab.py
"""

from kd_jax import config as base


def get_config(recipe: str | None = None) -> base.ConfigDict:
  """Returns the configuration of a recipe; None takes `digits`."""
  return base.pick(recipe, RECIPES)


def digits() -> base.ConfigDict:
  """300 embedded images of digits, 8x8 pixels; a minute on a laptop."""
  return ab(base.digits(), epochs=10)


def cifar100_r32x4_r8x4() -> base.ConfigDict:
  """resnet32x4 to resnet8x4 on CIFAR-100: 30 epochs of AB, then 240 epochs.

  Published: 73.17% top-1 (RepDistiller's README; teacher 79.42, student alone
  72.50).

    python -m kd_jax.main --config configs/ab.py:cifar100_r32x4_r8x4
  """
  return ab(base.pair(), epochs=30)


def cifar100(pair: str) -> base.ConfigDict:
  """Returns RepDistiller's recipe for a pair in `base.PAIRS`."""
  return ab(base.benchmark(pair), epochs=30)


def ab(config: base.ConfigDict, epochs: int) -> base.ConfigDict:
  """Adds the method: a phase with AB's loss alone, then cross-entropy alone.

  Args:
    config: The configuration, which is changed and returned.
    epochs: The length of AB's phase in epochs. It trains the connectors and all
      of the student but the classifier.
  """
  config.method = 'ab'
  config.method_args = base.ConfigDict(
    {'taps': base.stages(config, '_pre'), 'margin': 1.0}
  )
  config.weights = base.ConfigDict({'ce': 1.0, 'kd': 0.0, 'ab': 0.0})
  config.trainable = ('^student/',)
  return base.initialised(
    config,
    epochs=epochs,
    weights={'ce': 0.0, 'ab': 0.003},  # 3/1000 in RepDistiller's code
    trainable=('^student/(?!fc/)', '^method/'),
  )


# Top-1 in percent, by pair, of RepDistiller's README (one GPU, last epoch).
PUBLISHED = {
  'wrn_40_2_wrn_16_2': 72.50,
  'wrn_40_2_wrn_40_1': 72.38,
  'r56_r20': 69.47,
  'r110_r20': 69.53,
  'r110_r32': 70.98,
  'vgg13_vgg8': 70.94,
  'vgg13_mobilenetv2': 66.06,
  'r50_mobilenetv2': 67.20,
  'r50_vgg8': 70.65,
  'r32x4_shufflenetv1': 73.55,
  'r32x4_shufflenetv2': 74.31,
  'wrn_40_2_shufflenetv1': 73.34,
}
RECIPES = {
  'digits': digits,
  'cifar100_r32x4_r8x4': cifar100_r32x4_r8x4,
  **base.pairs(cifar100, PUBLISHED),
}
