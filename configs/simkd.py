"""SimKD: Chen et al., "Knowledge Distillation with the Reused Teacher
Classifier", 2022.

python -m kd_jax.main --config configs/simkd.py
"""

from kd_jax import config as base


def get_config(recipe: str | None = None) -> base.ConfigDict:
  """Returns the configuration of a recipe; None takes `digits`."""
  return base.pick(recipe, RECIPES)


def digits() -> base.ConfigDict:
  """300 embedded images of digits, 8x8 pixels; a minute on a laptop."""
  return simkd(base.digits())


def cifar100_r32x4_r8x4() -> base.ConfigDict:
  """resnet32x4 to resnet8x4 on CIFAR-100.

  Published: 78.08% top-1, the best epoch (SimKD's README; teacher 79.42,
  student alone 73.09). Published for factors 4 and 8: 77.88% and 76.73%.

    python -m kd_jax.main --config configs/simkd.py:cifar100_r32x4_r8x4
  """
  return simkd(base.pair())


def cifar100_r32x4_vgg8() -> base.ConfigDict:
  """resnet32x4 to VGG8 on CIFAR-100.

  Published: 75.76% top-1, the best epoch (SimKD's README; teacher 79.42,
  student alone 70.46). Published for factors 4 and 8: 75.62% and 74.74%.

    python -m kd_jax.main --config configs/simkd.py:cifar100_r32x4_vgg8
  """
  config = simkd(base.pair('resnet32x4', 'vgg8'))
  config.method_args.taps = ('stage4',)
  config.method_args.teacher_taps = ('stage3',)
  return config


def cifar100_r32x4_shufflenetv2x1_5() -> base.ConfigDict:
  """resnet32x4 to ShuffleNetV2x1.5 on CIFAR-100, with learning rate 0.01.

  Published: 79.54% top-1, the best epoch (SimKD's README; teacher 79.42,
  student alone 74.15). Published for factors 4 and 8: 79.48% and 78.96%. The
  code takes the map of stage 3, not the last one.

    python -m kd_jax.main \\
      --config configs/simkd.py:cifar100_r32x4_shufflenetv2x1_5
  """
  return simkd(base.pair('resnet32x4', 'shufflenetv2x1_5'))


def cifar100_r20_r8() -> base.ConfigDict:
  """resnet20 to resnet8 on CIFAR-100: a small pair."""
  return simkd(base.small_pair())


def imagenet_r34_r18() -> base.ConfigDict:
  """ResNet34 to ResNet18 on ImageNet, the recipe of SimKD's example.

  Published: 71.66% top-1 (later papers; teacher 73.31, student alone 69.76).

    python -m kd_jax.main --config configs/simkd.py:imagenet_r34_r18
  """
  config = simkd(base.imagenet())
  config.method_args.taps = ('stage4',)
  config.epochs = 120
  return config


def simkd(config: base.ConfigDict) -> base.ConfigDict:
  """Adds the method to `config`: features alone, no labels, as published."""
  config.method = 'simkd'
  config.method_args = base.ConfigDict({'taps': ('stage3',), 'factor': 2})
  config.weights = base.ConfigDict({'ce': 0.0, 'kd': 0.0, 'simkd': 1.0})
  return config


RECIPES = {
  'digits': digits,
  'cifar100_r32x4_r8x4': cifar100_r32x4_r8x4,
  'cifar100_r32x4_vgg8': cifar100_r32x4_vgg8,
  'cifar100_r32x4_shufflenetv2x1_5': cifar100_r32x4_shufflenetv2x1_5,
  'cifar100_r20_r8': cifar100_r20_r8,
  'imagenet_r34_r18': imagenet_r34_r18,
}
