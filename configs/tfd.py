"""TFD: Li et al., "Teacher-free Distillation via Regularizing Intermediate
Representation", IJCNN 2022; a reconstruction (see kd_jax/methods/tfd.py).

  python -m kd_jax.main --config configs/tfd.py
"""

from kd_jax import config as base


def get_config(recipe: str | None = None) -> base.ConfigDict:
  """Returns the configuration of a recipe; None takes `digits`."""
  return base.pick(recipe, RECIPES)


def digits() -> base.ConfigDict:
  """300 embedded images of digits, 8x8 pixels; half a minute on a laptop."""
  return tfd(base.teacher_free(base.digits()))


def cifar100_r20() -> base.ConfigDict:
  """resnet20 on CIFAR-100, the recipe of Tf-FD's code.

  The authors of TFD published no figure for CIFAR-100.

    python -m kd_jax.main --config configs/tfd.py:cifar100_r20
  """
  return tfd(base.tf_fd_recipe('resnet20'))


def cifar100_r8() -> base.ConfigDict:
  """resnet8 on CIFAR-100 with RepDistiller's schedule: a small network."""
  return tfd(base.teacher_free(base.small_pair()))


def imagenet_r18() -> base.ConfigDict:
  """ResNet18 on ImageNet: the network alone gains 0.8 points by the abstract.

  The recipe (torchvision's, with 100 epochs) is this library's choice.

    python -m kd_jax.main --config configs/tfd.py:imagenet_r18
  """
  return tfd(base.teacher_free(base.imagenet()))


def tfd(config: base.ConfigDict) -> base.ConfigDict:
  """Adds the method to `config`; weight and warm-up are reconstructions."""
  config.method = 'tfd'
  config.method_args = base.ConfigDict({'taps': base.stages(config)})
  config.weights = base.ConfigDict(
    {'ce': 1.0, 'inter': base.warmed_up(5e-3, 20)}
  )
  return config


RECIPES = {
  'digits': digits,
  'cifar100_r20': cifar100_r20,
  'cifar100_r8': cifar100_r8,
  'imagenet_r18': imagenet_r18,
}
