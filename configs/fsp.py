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


def fsp(config: base.ConfigDict, epochs: int) -> base.ConfigDict:
  """Adds the method: a phase with FSP's loss alone, then cross-entropy alone.

  Args:
    config: The configuration, which is changed and returned.
    epochs: The length of FSP's phase in epochs. It trains all of the student
      but the classifier.
  """
  config.method = 'fsp'
  config.method_args = base.ConfigDict(
    {'taps': ('stem', 'stage1', 'stage2', 'stage3')}
  )
  config.weights = base.ConfigDict({'ce': 1.0, 'kd': 0.0, 'fsp': 0.0})
  return base.initialised(
    config,
    epochs=epochs,
    weights={'ce': 0.0, 'fsp': 1.0},
    trainable=('^student/(?!fc/)',),
  )


RECIPES = {'digits': digits, 'cifar100_r32x4_r8x4': cifar100_r32x4_r8x4}
