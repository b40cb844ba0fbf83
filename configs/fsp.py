"""FSP: Yim et al., "A Gift from Knowledge Distillation", CVPR 2017.

python -m kd_jax.main --config configs/fsp.py
"""

from kd_jax import config as base


def get_config(recipe: str | None = None) -> base.ConfigDict:
  """Returns the configuration of a recipe; None takes `digits`."""
  return base.pick(recipe, RECIPES)


def digits() -> base.ConfigDict:
  """300 embedded images of digits, 8x8 pixels; a minute on a laptop.

  The student is wider than in the other `digits` recipes, because FSP needs as
  many channels as the teacher has.
  """
  config = base.digits()
  config.student = base.network('resnet8', widths=(16, 16, 32, 64))
  return fsp(config, epochs=10)


def cifar100_r32x4_r8x4() -> base.ConfigDict:
  """resnet32x4 to resnet8x4 on CIFAR-100: 30 epochs of FSP, then 240 epochs.

  Published: 72.62% top-1 (RepDistiller's README; teacher 79.42, student alone
  72.50).

    python -m kd_jax.main --config configs/fsp.py:cifar100_r32x4_r8x4
  """
  return fsp(base.pair(), epochs=30)


def cifar100(pair: str) -> base.ConfigDict:
  """Returns RepDistiller's recipe for a pair in `base.PAIRS`."""
  return fsp(base.benchmark(pair), epochs=30)


def fsp(config: base.ConfigDict, epochs: int) -> base.ConfigDict:
  """Adds the method: a phase with FSP's loss alone, then cross-entropy alone.

  Args:
    config: The configuration, which is changed and returned.
    epochs: The length of FSP's phase in epochs. It trains all of the student
      but the classifier.
  """
  config.method = 'fsp'
  config.method_args = base.ConfigDict({'taps': ('stem', *base.stages(config))})
  config.weights = base.ConfigDict({'ce': 1.0, 'kd': 0.0, 'fsp': 0.0})
  return base.initialised(
    config,
    epochs=epochs,
    weights={'ce': 0.0, 'fsp': 1.0},
    trainable=('^student/(?!fc/)',),
  )


# Top-1 in percent, by pair, of RepDistiller's README (one GPU, last epoch).
PUBLISHED = {
  'wrn_40_2_wrn_16_2': 72.91,
  'r56_r20': 69.95,
  'r110_r20': 70.11,
  'r110_r32': 71.89,
  'vgg13_vgg8': 70.23,
}
RECIPES = {
  'digits': digits,
  'cifar100_r32x4_r8x4': cifar100_r32x4_r8x4,
  **base.pairs(cifar100, PUBLISHED),
}
