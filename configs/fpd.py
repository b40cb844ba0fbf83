"""FPD: Wang et al., "Feature Pyramid Knowledge Distillation", ICONIP 2022.

The method is a reconstruction (see kd_jax/methods/fpd.py): what the paper's
abstract leaves open is the choice of this library.

  python -m kd_jax.main --config configs/fpd.py
"""

from kd_jax import config as base


def get_config(recipe: str | None = None) -> base.ConfigDict:
  """Returns the configuration of a recipe; None takes `digits`."""
  return base.pick(recipe, RECIPES)


def digits() -> base.ConfigDict:
  """300 embedded images of digits, 8x8 pixels; minutes on a laptop."""
  return fpd(base.digits(), width=64)


def scenes_segmentation() -> base.ConfigDict:
  """3,000 embedded scenes of digits with masks; minutes on a laptop.

  The pyramid is of the four stages. Its width and the weights are ours and not
  tuned.
  """
  stages = ('stage1', 'stage2', 'stage3', 'stage4')
  config = fpd(base.scenes_segmentation(), taps=stages, width=32)
  config.weights = base.ConfigDict({'ce': 1.0, 'kd': 1.0, 'fpd': 0.1})
  return config


def method_args(**changes) -> base.ConfigDict:
  """Returns all options of the method; see kd_jax/methods/fpd.py.

  Args:
    **changes: Values that replace the ones below.
  """
  return base.ConfigDict(
    {
      'taps': ('stem', 'stage1', 'stage2', 'stage3'),
      'version': 'A',
      'width': 256,
      'se_reduction': 16,
      'widened': (32, 64, 128, 256),
      'temperature': 4.0,
      'guided': False,
      'stop_grad_teacher_pyramid': False,
      **changes,
    }
  )


def cifar100_r34_r18() -> base.ConfigDict:
  """ResNet34 to ResNet18 on CIFAR-100.

  Published: 20.01% top-1 error (abstract of Wang et al., 2022), better than
  its teacher. The recipe is a reconstruction (RepDistiller's).

    python -m kd_jax.main --config configs/fpd.py:cifar100_r34_r18
  """
  return paper('cifar100', 'resnet34', 'resnet18')


def cifar100_r152_r50() -> base.ConfigDict:
  """ResNet152 to ResNet50 on CIFAR-100.

  Published: 19.21% top-1 error (abstract of Wang et al., 2022), better than
  its teacher. The recipe is a reconstruction (RepDistiller's).

    python -m kd_jax.main --config configs/fpd.py:cifar100_r152_r50
  """
  return paper('cifar100', 'resnet152', 'resnet50')


def cifar10_r34_r18() -> base.ConfigDict:
  """ResNet34 to ResNet18 on CIFAR-10.

  Published: 4.22% top-1 error (abstract of Wang et al., 2022). The teacher
  (ResNet34) and the recipe are reconstructions.

    python -m kd_jax.main --config configs/fpd.py:cifar10_r34_r18
  """
  return paper('cifar10', 'resnet34', 'resnet18')


def imagenet_r34_r18() -> base.ConfigDict:
  """ResNet34 to ResNet18 on ImageNet: a reconstruction; no figure is published.

  python -m kd_jax.main --config configs/fpd.py:imagenet_r34_r18
  """
  return fpd(base.imagenet())


def cifar100_r32x4_r8x4() -> base.ConfigDict:
  """resnet32x4 to resnet8x4 on CIFAR-100: the pair of the code's example."""
  return fpd(base.pair())


def cifar100_r20_r8() -> base.ConfigDict:
  """resnet20 to resnet8 on CIFAR-100: a small pair, with a narrow pyramid.

  A pyramid of 256 channels costs a hundred times as much as these networks.
  """
  return fpd(base.small_pair(), width=32)


def paper(data: str, teacher: str, student: str) -> base.ConfigDict:
  """Returns RepDistiller's recipe, for both the student and the teacher.

  It has batch size 64, 240 epochs, and learning rate 0.05, times 0.1 at epochs
  150, 180 and 210.

  Args:
    data: The name of the data set.
    teacher: The teacher's name.
    student: The student's name.
  """
  config = base.default()
  config.data.name = data
  config.student = base.network(student, stem='cifar')
  config.teacher.update(base.network(teacher, stem='cifar'))
  return fpd(config)


def fpd(config: base.ConfigDict, **changes) -> base.ConfigDict:
  """Adds the method to `config`, with the weights of the code's example.

  Args:
    config: The configuration, which is changed and returned.
    **changes: Options of the method, as for `method_args`.
  """
  config.method = 'fpd'
  config.method_args = method_args(**changes)
  config.weights = base.ConfigDict({'ce': 0.1, 'kd': 0.8, 'fpd': 0.1})
  return config


RECIPES = {
  'digits': digits,
  'scenes_segmentation': scenes_segmentation,
  'cifar100_r34_r18': cifar100_r34_r18,
  'cifar100_r152_r50': cifar100_r152_r50,
  'cifar10_r34_r18': cifar10_r34_r18,
  'imagenet_r34_r18': imagenet_r34_r18,
  'cifar100_r32x4_r8x4': cifar100_r32x4_r8x4,
  'cifar100_r20_r8': cifar100_r20_r8,
}
