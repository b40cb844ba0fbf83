"""CRD: Tian et al., "Contrastive Representation Distillation", ICLR 2020.

python -m kd_jax.main --config configs/crd.py
"""

from kd_jax import config as base


def get_config(recipe: str | None = None) -> base.ConfigDict:
  """Returns the configuration of a recipe; None takes `digits`."""
  return base.pick(recipe, RECIPES)


def digits() -> base.ConfigDict:
  """300 embedded images of digits, 8x8 pixels; a minute on a laptop.

  There are 128 negatives per image, because only about 270 images have another
  class.
  """
  return crd(base.digits(), negatives=128, kd=0.0)


def cifar100_r32x4_r8x4() -> base.ConfigDict:
  """resnet32x4 to resnet8x4 on CIFAR-100, RepDistiller's recipe.

  Published: 75.51% top-1 (RepDistiller's README; teacher 79.42, student alone
  72.50).

    python -m kd_jax.main --config configs/crd.py:cifar100_r32x4_r8x4
  """
  return repdistiller(kd=0.0)


def cifar100_r32x4_r8x4_kd() -> base.ConfigDict:
  """resnet32x4 to resnet8x4 on CIFAR-100, with KD's loss added to CRD's.

  It follows the second command of RepDistiller's README.

  python -m kd_jax.main --config configs/crd.py:cifar100_r32x4_r8x4_kd
  """
  return repdistiller(kd=1.0)


def imagenet_r34_r18() -> base.ConfigDict:
  """ResNet34 to ResNet18 on ImageNet.

  Published: 71.17% top-1 (the paper; teacher 73.31, student alone 69.76), and
  70.93 (torchdistill, with configuration and log, 85 images on each of 3 GPUs).

    python -m kd_jax.main --config configs/crd.py:imagenet_r34_r18
  """
  return crd(base.imagenet(), negatives=16384, kd=0.0)


def cifar100(pair: str) -> base.ConfigDict:
  """Returns RepDistiller's recipe for a pair in `base.PAIRS`."""
  return crd(base.benchmark(pair), negatives=16384, kd=0.0)


def repdistiller(kd: float) -> base.ConfigDict:
  """Returns the recipe of the CIFAR-100 pair with a weight for KD's loss."""
  return crd(base.pair(), negatives=16384, kd=kd)


def crd(config: base.ConfigDict, negatives: int, kd: float) -> base.ConfigDict:
  """Adds the method to `config`, with RepDistiller's weight for CRD.

  Args:
    config: The configuration, which is changed and returned.
    negatives: The number of negatives per image.
    kd: The weight of KD's loss.
  """
  config.method = 'crd'
  config.method_args = base.ConfigDict({'negatives': negatives})
  config.weights = base.ConfigDict({'ce': 1.0, 'kd': kd, 'crd': 0.8})
  return config


# Top-1 in percent, by pair, of RepDistiller's README (one GPU, last epoch).
PUBLISHED = {
  'wrn_40_2_wrn_16_2': 75.48,
  'wrn_40_2_wrn_40_1': 74.14,
  'r56_r20': 71.16,
  'r110_r20': 71.46,
  'r110_r32': 73.48,
  'vgg13_vgg8': 73.94,
  'vgg13_mobilenetv2': 69.73,
  'r50_mobilenetv2': 69.11,
  'r50_vgg8': 74.30,
  'r32x4_shufflenetv1': 75.11,
  'r32x4_shufflenetv2': 75.65,
  'wrn_40_2_shufflenetv1': 76.05,
}
RECIPES = {
  'digits': digits,
  'cifar100_r32x4_r8x4': cifar100_r32x4_r8x4,
  'cifar100_r32x4_r8x4_kd': cifar100_r32x4_r8x4_kd,
  'imagenet_r34_r18': imagenet_r34_r18,
  **base.pairs(cifar100, PUBLISHED),
}
