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


def cifar100_r32() -> base.ConfigDict:
  """resnet32 on CIFAR-100; published: 72.55% (without 71.14; ECCV poster)."""
  return tf_fd(base.tf_fd_recipe('resnet32'))


def cifar100_wrn_16_2() -> base.ConfigDict:
  """WRN-16-2 on CIFAR-100; published: 74.33% (without 73.26; ECCV poster).

  Which maps of this network the paper compares is not known; these are the sums
  at the ends of its stages.
  """
  return tf_fd(base.tf_fd_recipe('wrn_16_2'))


def cifar100_r8x4() -> base.ConfigDict:
  """resnet8x4 on CIFAR-100; published: 73.62% (without 72.50; ECCV poster)."""
  return tf_fd(base.tf_fd_recipe('resnet8x4'))


def cifar100_vgg8() -> base.ConfigDict:
  """VGG8 on CIFAR-100; published: 71.62% (without 70.36; ECCV poster).

  Which maps of this network the paper compares is not known; these are those of
  its four stages.
  """
  return tf_fd(base.tf_fd_recipe('vgg8'))


def imagenet_r18() -> base.ConfigDict:
  """ResNet18 on ImageNet; published: 0.91 points above the network alone.

  The figure is from a draft of the abstract in the code's history. The recipe
  (torchvision's, with 100 epochs) is this library's choice.

    python -m kd_jax.main --config configs/tf_fd.py:imagenet_r18
  """
  return tf_fd(base.teacher_free(base.imagenet()))


def imagenet_r50() -> base.ConfigDict:
  """ResNet50 on ImageNet; published: 1.84 points above the network alone.

  See `imagenet_r18`.
  """
  return tf_fd(base.teacher_free(base.imagenet(student='resnet50')))


def digits_kd() -> base.ConfigDict:
  """`digits` with KD from a teacher in addition."""
  return with_kd(tf_fd(base.digits()))


def cifar100_r110_r20() -> base.ConfigDict:
  """resnet20 on CIFAR-100, with KD from resnet110 in addition.

  Published: 71.56% top-1, the best epoch (ECCV poster; KD alone 70.67).

    python -m kd_jax.main --config configs/tf_fd.py:cifar100_r110_r20
  """
  return cifar100_with_kd('resnet110', 'resnet20')


def cifar100_r110_r32() -> base.ConfigDict:
  """resnet32 with KD from resnet110; published: 73.68% (KD alone 73.08)."""
  return cifar100_with_kd('resnet110', 'resnet32')


def cifar100_wrn_40_2_wrn_16_2() -> base.ConfigDict:
  """WRN-16-2 with KD from WRN-40-2; published: 75.68% (KD alone 74.92)."""
  return cifar100_with_kd('wrn_40_2', 'wrn_16_2')


def cifar100_r32x4_r8x4() -> base.ConfigDict:
  """resnet8x4 with KD from resnet32x4; published: 75.65% (KD alone 73.33)."""
  return cifar100_with_kd('resnet32x4', 'resnet8x4')


def cifar100_vgg13_vgg8() -> base.ConfigDict:
  """VGG8 with KD from VGG13; published: 74.08% (KD alone 72.98)."""
  return cifar100_with_kd('vgg13', 'vgg8')


def cifar100_with_kd(teacher: str, student: str) -> base.ConfigDict:
  """Returns the recipe for CIFAR-100 with KD from a teacher in addition.

  The poster names no teachers; they are those of the figures of KD alone.

  Args:
    teacher: The teacher's name.
    student: The student's name.
  """
  config = tf_fd(base.tf_fd_recipe(student))
  config.teacher.update(base.network(teacher))
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
    {'taps': base.stages(config), 'detach_salient': False}
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
  'cifar100_r32': cifar100_r32,
  'cifar100_wrn_16_2': cifar100_wrn_16_2,
  'cifar100_r8x4': cifar100_r8x4,
  'cifar100_vgg8': cifar100_vgg8,
  'cifar100_r110_r32': cifar100_r110_r32,
  'cifar100_wrn_40_2_wrn_16_2': cifar100_wrn_40_2_wrn_16_2,
  'cifar100_r32x4_r8x4': cifar100_r32x4_r8x4,
  'cifar100_vgg13_vgg8': cifar100_vgg13_vgg8,
  'imagenet_r18': imagenet_r18,
  'imagenet_r50': imagenet_r50,
  'digits_kd': digits_kd,
}
