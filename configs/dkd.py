"""DKD: Zhao et al., "Decoupled Knowledge Distillation", 2022.

python -m kd_jax.main --config configs/dkd.py
"""

from kd_jax import config as base


def get_config(recipe: str | None = None) -> base.ConfigDict:
  """Returns the configuration of a recipe; None takes `digits`."""
  return base.pick(recipe, RECIPES)


def digits() -> base.ConfigDict:
  """300 embedded images of digits, 8x8 pixels; a minute on a laptop."""
  return dkd(base.digits(), beta=8.0)


def cifar100_r32x4_r8x4() -> base.ConfigDict:
  """resnet32x4 to resnet8x4 on CIFAR-100, mdistiller's recipe.

  Published: 76.32% top-1 (mdistiller's README; teacher 79.42, student alone
  72.50).

    python -m kd_jax.main --config configs/dkd.py:cifar100_r32x4_r8x4
  """
  return cifar100('r32x4_r8x4')


def cifar100_r110_r32() -> base.ConfigDict:
  """resnet110 to resnet32 on CIFAR-100, mdistiller's recipe.

  Published: 74.11% top-1 (mdistiller's README; teacher 74.31, student alone
  71.14).

    python -m kd_jax.main --config configs/dkd.py:cifar100_r110_r32
  """
  return cifar100('r110_r32')


def cifar100_r56_r20() -> base.ConfigDict:
  """resnet56 to resnet20 on CIFAR-100, mdistiller's recipe.

  Published: 71.97% top-1 (mdistiller's README; teacher 72.34, student alone
  69.06).

    python -m kd_jax.main --config configs/dkd.py:cifar100_r56_r20
  """
  return cifar100('r56_r20')


def imagenet_r34_r18() -> base.ConfigDict:
  """ResNet34 to ResNet18 on ImageNet, mdistiller's recipe.

  Published: 71.70% top-1 (mdistiller's README; teacher 73.31, student alone
  69.76). mdistiller's teachers are torchvision's networks: set
  config.teacher.path to their weights.

    python -m kd_jax.main --config configs/dkd.py:imagenet_r34_r18
  """
  return imagenet('resnet34', 'resnet18', beta=0.5)


def imagenet_r50_mobilenetv1() -> base.ConfigDict:
  """ResNet50 to MobileNet on ImageNet, mdistiller's recipe.

  Published: 72.05% top-1 (mdistiller's README; teacher 76.16, student alone
  68.87).

    python -m kd_jax.main --config configs/dkd.py:imagenet_r50_mobilenetv1
  """
  return imagenet('resnet50', 'mobilenetv1', beta=2.0)


def imagenet(teacher: str, student: str, beta: float) -> base.ConfigDict:
  """Returns mdistiller's recipe for ImageNet, with batch size 512."""
  config = base.imagenet(teacher, student)
  config.batch_size = 512
  config.optimizer.learning_rate.value = 0.2
  return dkd(config, beta, temperature=1.0, epochs=1)


def cifar100(pair: str) -> base.ConfigDict:
  """Returns mdistiller's recipe for a pair in `base.PAIRS`."""
  return dkd(base.benchmark(pair), BETA.get(pair, 8.0))


def dkd(
  config: base.ConfigDict,
  beta: float,
  temperature: float = 4.0,
  epochs: int = 20,
) -> base.ConfigDict:
  """Adds the method to `config`; its weight warms up over `epochs`."""
  config.method = 'dkd'
  config.method_args = base.ConfigDict(
    {'alpha': 1.0, 'beta': beta, 'temperature': temperature}
  )
  config.weights = base.ConfigDict(
    {'ce': 1.0, 'kd': 0.0, 'dkd': base.warmed_up(1.0, epochs)}
  )
  return config


# The weight of the classes other than the true one, where it is not 8.
BETA = {
  'r56_r20': 2.0,
  'r110_r32': 2.0,
  'vgg13_vgg8': 6.0,
  'vgg13_mobilenetv2': 6.0,
  'wrn_40_2_wrn_16_2': 6.0,
  'wrn_40_2_wrn_40_1': 6.0,
}
# Top-1 in percent, by pair, of mdistiller's README.
PUBLISHED = {
  'wrn_40_2_wrn_16_2': 76.23,
  'wrn_40_2_wrn_40_1': 74.81,
  'vgg13_vgg8': 74.68,
  'vgg13_mobilenetv2': 69.71,
  'r50_mobilenetv2': 70.35,
  'r32x4_shufflenetv1': 76.45,
  'wrn_40_2_shufflenetv1': 76.70,
  'r32x4_shufflenetv2': 77.07,
}
RECIPES = {
  'digits': digits,
  'cifar100_r32x4_r8x4': cifar100_r32x4_r8x4,
  'cifar100_r110_r32': cifar100_r110_r32,
  'cifar100_r56_r20': cifar100_r56_r20,
  'imagenet_r34_r18': imagenet_r34_r18,
  'imagenet_r50_mobilenetv1': imagenet_r50_mobilenetv1,
  **base.pairs(cifar100, PUBLISHED),
}
