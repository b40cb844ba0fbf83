"""CE: a network trained on the labels alone, as teachers are.

python -m kd_jax.main --config configs/ce.py
"""

from kd_jax import config as base


def get_config(recipe: str | None = None) -> base.ConfigDict:
  """Returns the configuration of a recipe; None takes `digits`."""
  return base.pick(recipe, RECIPES)


def digits() -> base.ConfigDict:
  """The teacher of all `digits` recipes."""
  return base.of_teacher(base.digits())


def cifar100_r20() -> base.ConfigDict:
  """resnet20 on CIFAR-100 with Tf-FD's recipe, without the method.

  Published: 69.06% top-1, the best epoch (Tf-FD's ECCV poster).

    python -m kd_jax.main --config configs/ce.py:cifar100_r20
  """
  return base.tf_fd_recipe('resnet20')


def scenes_segmentation() -> base.ConfigDict:
  """The teacher of all `scenes_segmentation` recipes."""
  return base.of_teacher(base.scenes_segmentation())


def scenes_detection() -> base.ConfigDict:
  """The teacher of all `scenes_detection` recipes."""
  return base.of_teacher(base.scenes_detection())


RECIPES = {
  'digits': digits,
  'cifar100_r20': cifar100_r20,
  'scenes_segmentation': scenes_segmentation,
  'scenes_detection': scenes_detection,
}
