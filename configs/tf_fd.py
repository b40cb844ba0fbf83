"""Tf-FD: Li, "Self-Regulated Feature Learning via Teacher-free Feature
Distillation", ECCV 2022.

  python -m kd_jax.main --config configs/tf_fd.py
"""

from kd_jax import config as base


def get_config(recipe: str | None = None) -> base.ConfigDict:
  """Returns the configuration of a recipe; None takes `digits`."""
  return base.pick(recipe, RECIPES)


def digits() -> base.ConfigDict:
  """300 embedded images of digits, 8x8 pixels; half a minute on a laptop."""
  return tf_fd(base.teacher_free(base.digits()))


def cifar100_r20() -> base.ConfigDict:
  """resnet20 on CIFAR-100.

  Published: 70.62% top-1, the best epoch (ECCV poster; without Tf-FD 69.06).

    python -m kd_jax.main --config configs/tf_fd.py:cifar100_r20
  """
  return tf_fd(base.tf_fd_recipe('resnet20'))


def digits_kd() -> base.ConfigDict:
  """`digits` with KD from a teacher in addition."""
  return with_kd(tf_fd(base.digits()))


def cifar100_r110_r20() -> base.ConfigDict:
  """resnet20 on CIFAR-100, with KD from resnet110 in addition.

  Published: 71.56% top-1, the best epoch (ECCV poster; KD alone 70.67).

    python -m kd_jax.main --config configs/tf_fd.py:cifar100_r110_r20
  """
  config = tf_fd(base.tf_fd_recipe('resnet20'))
  config.teacher.update(base.network('resnet110'))
  return with_kd(config)


def with_kd(config: base.ConfigDict) -> base.ConfigDict:
  """Adds KD's loss to `config`; its weight warms up as the others do."""
  config.method_args.with_kd = True
  config.method_args.temperature = 4.0
  config.weights.kd = base.warmed_up(1.0, 20)
  return config


def tf_fd(config: base.ConfigDict) -> base.ConfigDict:
  """Adds the method to `config`, with the weights of the code's example.

  They are those of the command that the released code documents.
  """
  config.method = 'tf_fd'
  config.method_args = base.ConfigDict(
    {'taps': ('stage1', 'stage2', 'stage3'), 'detach_salient': False}
  )
  config.weights = base.ConfigDict(
    {
      'ce': 1.0,
      'inter': base.warmed_up(5e-4, 20),
      'intra': base.warmed_up(8e-4, 20),
    }
  )
  return config


RECIPES = {
  'digits': digits,
  'cifar100_r20': cifar100_r20,
  'cifar100_r110_r20': cifar100_r110_r20,
  'digits_kd': digits_kd,
}
