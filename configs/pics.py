"""PICS: Zuo et al., "Projector integration and classifier sharing", 2024; a
reconstruction (see kd_jax/methods/pics.py).

python -m kd_jax.main --config configs/pics.py
"""

from kd_jax import config as base


def get_config(recipe: str | None = None) -> base.ConfigDict:
  """Returns the configuration of a recipe; None takes `digits`."""
  return base.pick(recipe, RECIPES)


def digits() -> base.ConfigDict:
  """300 embedded images of digits, 8x8 pixels; a minute on a laptop."""
  return pics(base.digits())


def cifar100_r32x4_r8x4() -> base.ConfigDict:
  """resnet32x4 to resnet8x4 on CIFAR-100, SimKD's recipe.

  The recipe is this library's choice. The paper's tables are not public; SimKD,
  which has one projector, reaches 78.08%.

    python -m kd_jax.main --config configs/pics.py:cifar100_r32x4_r8x4
  """
  return pics(base.pair())


def cifar100_r20_r8() -> base.ConfigDict:
  """resnet20 to resnet8 on CIFAR-100: a small pair."""
  return pics(base.small_pair())


def tiny_imagenet_r32x4_r8x4() -> base.ConfigDict:
  """resnet32x4 to resnet8x4 on Tiny-ImageNet, padded by 8 pixels.

  All else is as in `cifar100_r32x4_r8x4`. The paper uses this data set with a
  recipe and pairs of networks that are not public.

    python -m kd_jax.main --config configs/pics.py:tiny_imagenet_r32x4_r8x4
  """
  config = cifar100_r32x4_r8x4()
  config.data.name = 'tiny_imagenet'
  config.data.crop_padding = 8
  return config


def imagenet_r34_r18() -> base.ConfigDict:
  """ResNet34 to ResNet18 on ImageNet, SimKD's setting.

  The setting is this library's choice. For SimKD, which has one projector,
  later papers report 71.66% top-1 (teacher 73.31, student alone 69.76).

    python -m kd_jax.main --config configs/pics.py:imagenet_r34_r18
  """
  config = pics(base.imagenet())
  config.method_args.taps = ('stage4',)
  config.epochs = 120  # as in SimKD
  return config


def pics(config: base.ConfigDict) -> base.ConfigDict:
  """Adds the method to `config`: 3 projectors of half the teacher's width."""
  config.method = 'pics'
  config.method_args = base.ConfigDict(
    {'taps': ('stage3',), 'projectors': 3, 'factor': 2}
  )
  config.weights = base.ConfigDict({'ce': 0.0, 'kd': 0.0, 'pics': 1.0})
  return config


RECIPES = {
  'digits': digits,
  'cifar100_r32x4_r8x4': cifar100_r32x4_r8x4,
  'cifar100_r20_r8': cifar100_r20_r8,
  'tiny_imagenet_r32x4_r8x4': tiny_imagenet_r32x4_r8x4,
  'imagenet_r34_r18': imagenet_r34_r18,
}
