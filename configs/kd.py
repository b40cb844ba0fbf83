"""KD: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015.

python -m kd_jax.main --config configs/kd.py
"""

from kd_jax import config as base


def get_config(recipe: str | None = None) -> base.ConfigDict:
  """Returns the configuration of a recipe; None takes `digits`."""
  return base.pick(recipe, RECIPES)


def digits() -> base.ConfigDict:
  """300 embedded images of digits, 8x8 pixels; a minute on a laptop."""
  return kd(base.digits())


def digits_two_teachers() -> base.ConfigDict:
  """300 embedded digits; a resnet20 and a WRN-16-2 teach together (ours).

  The student's target is the mean of their softened probabilities.
  """
  config = digits()
  recipe, least = config.teacher.recipe, config.teacher.expected_top1
  resnet = base.network(config.teacher.name, **config.teacher.args)
  for name, network in (
    ('resnet', resnet),
    ('wide', base.network('wrn_16_2')),
  ):
    fields = {**network, 'recipe': recipe, 'expected_top1': least}
    config.teachers[name] = base.ConfigDict(fields)
  config.teacher.name = ''
  config.method_args.teachers = ('resnet', 'wide')
  return config


def cifar100_r20_r8() -> base.ConfigDict:
  """resnet20 to resnet8 on CIFAR-100, RepDistiller's recipe: a small pair.

  python -m kd_jax.main --config configs/kd.py:cifar100_r20_r8
  """
  return repdistiller('resnet20', 'resnet8')


def cifar100_r32x4_r8x4() -> base.ConfigDict:
  """resnet32x4 to resnet8x4 on CIFAR-100.

  Published: 73.33% top-1 (RepDistiller's README; teacher 79.42, student alone
  72.50; one GPU, last epoch).

    python -m kd_jax.main --config configs/kd.py:cifar100_r32x4_r8x4
  """
  return repdistiller('resnet32x4', 'resnet8x4')


def cifar100_r32x4_r8x4_standardized() -> base.ConfigDict:
  """resnet32x4 to resnet8x4 on CIFAR-100, with standardised logits.

  The method is that of Sun et al., "Logit Standardization in Knowledge
  Distillation", 2024, with weights 0.1 and 9 at T=2. Published: 76.62% top-1
  (the paper; teacher 79.42, student alone 72.50; the best epoch, about 0.3
  above the last).

    python -m kd_jax.main \\
      --config configs/kd.py:cifar100_r32x4_r8x4_standardized
  """
  return standardized('r32x4_r8x4')


def standardized(pair: str) -> base.ConfigDict:
  """Returns the recipe with standardised logits for a pair in `base.PAIRS`."""
  config = cifar100(pair)
  config.method_args = base.ConfigDict(
    {'temperature': 2.0, 'standardize': True}
  )
  config.weights = base.ConfigDict({'ce': 0.1, 'kd': 9.0})
  return config


def imagenet_r34_r18() -> base.ConfigDict:
  """ResNet34 to ResNet18 on ImageNet, torchdistill's recipe.

  Published: 71.37% top-1 (torchdistill, with configuration and log; teacher
  73.31, student alone 69.76; last epoch). torchdistill's teacher is
  torchvision's network: set config.teacher.path to its weights.

    python -m kd_jax.main --config configs/kd.py:imagenet_r34_r18
  """
  config = kd(base.imagenet())
  config.method_args.temperature = 1.0
  config.weights = base.ConfigDict({'ce': 0.5, 'kd': 0.5})
  return config


def folder_r34_r18() -> base.ConfigDict:
  """torchvision's ResNet-34, trained on your folder of images, to ResNet-18.

  The schedule is a starting point and not published.

    python -m kd_jax.main --config configs/kd.py:folder_r34_r18 \
      --config.data.name=folder:photos --config.teacher.path=resnet34.pth
  """
  config = repdistiller('resnet34', 'resnet18')
  config.data.name = 'folder:photos'
  config.data.image_size = 224
  config.data.augment = 'random_resized_crop'
  config.data.mean = (0.485, 0.456, 0.406)  # torchvision's
  config.data.std = (0.229, 0.224, 0.225)
  config.epochs, config.eval_batch_size = 30, 64
  config.optimizer.learning_rate = base.step_schedule(0.05, (15, 25))
  return config


def cifar100(pair: str) -> base.ConfigDict:
  """Returns RepDistiller's recipe for a pair in `base.PAIRS`."""
  return kd(base.benchmark(pair))


def repdistiller(teacher: str, student: str) -> base.ConfigDict:
  """Returns RepDistiller's recipe, which equals the defaults, for a pair."""
  return kd(base.pair(teacher, student))


def kd(config: base.ConfigDict) -> base.ConfigDict:
  """Adds the method to `config`, with weights 0.1 and 0.9 at T=4."""
  config.method = 'kd'
  config.method_args = base.ConfigDict({'temperature': 4.0})
  config.weights = base.ConfigDict({'ce': 0.1, 'kd': 0.9})
  return config


def scenes_segmentation() -> base.ConfigDict:
  """3,000 embedded scenes of digits with masks; minutes on a laptop.

  The divergence is that of the scores at each position, before they are
  resized to the images (ours).
  """
  config = kd(base.scenes_segmentation())
  config.weights = base.ConfigDict({'ce': 1.0, 'kd': 1.0})
  config.method_args = base.ConfigDict({'temperature': 2.0})
  return config


def scenes_detection() -> base.ConfigDict:
  """3,000 embedded scenes of digits with boxes; minutes on a laptop.

  The divergence is that of the priors' classes where the supervised loss looks
  at them; the boxes are not distilled (ours).
  """
  config = kd(base.scenes_detection())
  config.weights = base.ConfigDict({'ce': 1.0, 'kd': 1.0})
  config.method_args = base.ConfigDict({'temperature': 2.0})
  return config


# Top-1 in percent, by pair, of RepDistiller's README (one GPU, last epoch).
PUBLISHED = {
  'wrn_40_2_wrn_16_2': 74.92,
  'wrn_40_2_wrn_40_1': 73.54,
  'r56_r20': 70.66,
  'r110_r20': 70.67,
  'r110_r32': 73.08,
  'vgg13_vgg8': 72.98,
  'vgg13_mobilenetv2': 67.37,
  'r50_mobilenetv2': 67.35,
  'r50_vgg8': 73.81,
  'r32x4_shufflenetv1': 74.07,
  'r32x4_shufflenetv2': 74.45,
  'wrn_40_2_shufflenetv1': 74.83,
}
# The best epoch's, in the README of logit-standardization-KD.
STANDARDIZED = {
  'wrn_40_2_wrn_16_2': 76.11,
  'wrn_40_2_wrn_40_1': 74.37,
  'r56_r20': 71.43,
  'r110_r20': 71.48,
  'r110_r32': 74.17,
  'vgg13_vgg8': 74.36,
  'vgg13_mobilenetv2': 68.61,
  'r50_mobilenetv2': 69.02,
  'r32x4_shufflenetv2': 75.56,
}
RECIPES = {
  'digits': digits,
  'digits_two_teachers': digits_two_teachers,
  'scenes_segmentation': scenes_segmentation,
  'scenes_detection': scenes_detection,
  'cifar100_r20_r8': cifar100_r20_r8,
  'imagenet_r34_r18': imagenet_r34_r18,
  'folder_r34_r18': folder_r34_r18,
  'cifar100_r32x4_r8x4': cifar100_r32x4_r8x4,
  'cifar100_r32x4_r8x4_standardized': cifar100_r32x4_r8x4_standardized,
  **base.pairs(cifar100, PUBLISHED),
  **base.pairs(standardized, STANDARDIZED, suffix='_standardized'),
}
