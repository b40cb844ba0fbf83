"""Building blocks of the recipes in `configs/`, and the search for a recipe."""

from collections.abc import Callable, Mapping
import os
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from kd_jax import errors
from kd_jax.config import completing, schema

# RepDistiller's pairs of networks on CIFAR-100, by the names of recipes.
PAIRS = {
  'wrn_40_2_wrn_16_2': ('wrn_40_2', 'wrn_16_2'),
  'wrn_40_2_wrn_40_1': ('wrn_40_2', 'wrn_40_1'),
  'r56_r20': ('resnet56', 'resnet20'),
  'r110_r20': ('resnet110', 'resnet20'),
  'r110_r32': ('resnet110', 'resnet32'),
  'r32x4_r8x4': ('resnet32x4', 'resnet8x4'),
  'vgg13_vgg8': ('vgg13', 'vgg8'),
  'vgg13_mobilenetv2': ('vgg13', 'mobilenetv2'),
  'r50_mobilenetv2': ('resnet50', 'mobilenetv2'),
  'r50_vgg8': ('resnet50', 'vgg8'),
  'r32x4_shufflenetv1': ('resnet32x4', 'shufflenetv1'),
  'r32x4_shufflenetv2': ('resnet32x4', 'shufflenetv2'),
  'wrn_40_2_shufflenetv1': ('wrn_40_2', 'shufflenetv1'),
}
# What the names of students with a lower learning rate begin with.
_SLOW = ('mobilenet', 'shufflenet')
# What the names of networks with four stages begin with; others have three.
_FOUR_STAGES = (
  *('vgg', 'mobilenet', 'deeplab', 'vit', 'deit', 'convnext', 'efficientnet'),
  *('regnet', 'swin'),
  *(f'resnet{depth}' for depth in (18, 34, 50, 101, 152)),
)


def initialised(
  config: ConfigDict,
  *,
  epochs: int,
  weights: Mapping[str, float],
  trainable: tuple[str, ...],
  learning_rate: float | Mapping[str, Any] | None = None,
) -> ConfigDict:
  """Adds an initial phase; returns `config`.

  Args:
    config: The configuration of the training after that phase; it is changed.
    epochs: The length of the phase in epochs.
    weights: The loss weights of the phase that differ from `config.weights`.
    trainable: The value of `config.trainable` in the phase.
    learning_rate: The learning rate, or a schedule; None takes the first value
      of `config.optimizer.learning_rate`.
  """
  if learning_rate is None:
    learning_rate = config.optimizer.learning_rate.value
  config.phases.initialise = ConfigDict(
    {
      'epochs': epochs,
      'weights': dict(weights),
      'trainable': trainable,
      'learning_rate': learning_rate,
    }
  )
  return config


def teacher_free(config: ConfigDict) -> ConfigDict:
  """Removes the teacher from `config`, and returns it."""
  config.teacher = schema.default().teacher
  return config


def tf_fd_recipe(student: str) -> ConfigDict:
  """Returns the CIFAR-100 recipe of the code Teacher-free-Distillation.

  It has no teacher, and SGD with Nesterov momentum.

  Args:
    student: The student's name.
  """
  config = schema.default()
  config.student = schema.network(student)
  config.batch_size = 128
  config.data.padding_mode = 'reflect'
  config.data.mean = (0.5071, 0.4865, 0.4409)
  config.data.std = (0.2673, 0.2564, 0.2762)
  config.optimizer.learning_rate = schema.step_schedule(0.1, (150, 180, 210))
  config.optimizer.nesterov = True
  return config


def pair(teacher: str = 'resnet32x4', student: str = 'resnet8x4') -> ConfigDict:
  """Returns a pair of networks on CIFAR-100 with RepDistiller's recipe.

  MobileNets and ShuffleNets as students have its learning rate for them, 0.01.

  Args:
    teacher: The teacher's name.
    student: The student's name.
  """
  config = schema.default()
  config.student = schema.network(student)
  config.teacher.update(schema.network(teacher))
  if student.startswith(_SLOW):
    config.optimizer.learning_rate.value = 0.01
  return config


def benchmark(name: str) -> ConfigDict:
  """Returns `pair` for one of `PAIRS`.

  Args:
    name: The pair's name.
  """
  config = pair(*PAIRS[name])
  if config.teacher.name == 'resnet50':
    config.teacher.args.stem = 'cifar'
  return config


def stages(config: ConfigDict, suffix: str = '') -> tuple[str, ...]:
  """Returns the taps of all stages of the student, shallow first.

  Args:
    config: The configuration.
    suffix: What the taps' names end with, such as '_pre'.
  """
  count = 4 if config.student.name.startswith(_FOUR_STAGES) else 3
  return tuple(f'stage{i}{suffix}' for i in range(1, count + 1))


def pairs(
  recipe: Callable[[str], ConfigDict],
  published: Mapping[str, float],
  prefix: str = 'cifar100_',
  suffix: str = '',
) -> dict[str, Callable[[], ConfigDict]]:
  """Returns a recipe for each pair of networks of a published table.

  Args:
    recipe: Returns the configuration of a pair in `PAIRS`.
    published: The students' published top-1 in percent, by the pair's name.
    prefix: What the recipes' names begin with, before the pair's name.
    suffix: What the recipes' names end with, after the pair's name.
  """

  def of(name: str) -> Callable[[], ConfigDict]:
    def of_pair() -> ConfigDict:
      return recipe(name)

    teacher, student = PAIRS[name]
    of_pair.__doc__ = (
      f'{teacher} to {student} on CIFAR-100; published: '
      f'{published[name]:.2f}% top-1.'
    )
    return of_pair

  return {f'{prefix}{name}{suffix}': of(name) for name in published}


def small_pair() -> ConfigDict:
  """Returns `pair` with resnet20 as the teacher and resnet8 as the student."""
  return pair('resnet20', 'resnet8')


def imagenet(
  teacher: str = 'resnet34',
  student: str = 'resnet18',
  milestones: tuple[int, ...] = (30, 60, 90),
  *,
  nesterov: bool = False,
) -> ConfigDict:
  """Returns a pair of networks on ImageNet with torchdistill's ResNet recipe.

  The recipe has 100 epochs, batch size 256 and learning rate 0.1, times 0.1 at
  each milestone. It trains the student, and the teacher too if `teacher.path`
  is not set; the teacher's milestones are always 30, 60 and 90.

  Args:
    teacher: The teacher's name.
    student: The student's name.
    milestones: The epochs at which the student's learning rate drops.
    nesterov: Whether student and teacher have Nesterov's momentum.
  """
  config = pair(teacher, student)
  config.data.name = 'imagenet2012'
  config.data.augment = 'random_resized_crop'
  config.data.image_size = 224
  config.epochs, config.batch_size = 100, 256
  common = {'weight_decay': 1e-4, **({'nesterov': True} if nesterov else {})}
  rate = schema.step_schedule(0.1, milestones)
  config.optimizer.update({'learning_rate': rate, **common})
  rate = schema.step_schedule(0.1, (30, 60, 90))
  config.teacher.recipe = ConfigDict(
    {
      'seed': 0,
      'epochs': 100,
      'batch_size': 256,
      'optimizer': {'learning_rate': rate, **common},
    }
  )
  return config


def digits() -> ConfigDict:
  """Returns the configuration that all `digits` recipes start from.

  It has the embedded data, the networks, the teacher's recipe and the schedule.
  """
  config = schema.default()
  config.data.name = 'digits'
  config.data.train_size = 300
  config.data.crop_padding = 1
  config.data.flip = False
  config.epochs = 60
  config.batch_size = 32
  config.optimizer.learning_rate = schema.step_schedule(0.05, (36, 48))
  config.student = schema.network('resnet8', widths=(8, 8, 16, 32))
  config.teacher.update(schema.network('resnet20', widths=(16, 16, 32, 64)))
  config.teacher.recipe = ConfigDict(
    {
      'seed': 0,
      'epochs': 60,
      'batch_size': 32,
      'optimizer': {'learning_rate': schema.step_schedule(0.05, (36, 48))},
    }
  )
  # Differences in rounding alone move the accuracy between 96.1 and 97.5.
  config.teacher.expected_top1 = 94.0
  config.baseline = 'train'
  config.eval_batch_size = 192
  config.eval_every = 5.0
  config.checkpoint_every = 15.0
  return config


def scenes_segmentation() -> ConfigDict:
  """Returns what all recipes of the embedded scenes with masks start from.

  It has two small DeepLabs, of which the student has a quarter of the
  parameters; minutes on a laptop.
  """
  config = schema.default()
  config.data.name = 'scenes_segmentation'
  config.data.crop_padding = 0  # mirrored digits are no digits
  config.data.flip = False
  config.epochs, config.batch_size = 5, 16
  config.optimizer = ConfigDict({**config.optimizer, **_adamw(5)})
  config.student = schema.network('deeplab_resnet10_small')
  config.teacher.update(schema.network('deeplab_resnet18_small'))
  config.teacher.recipe = ConfigDict(
    {'seed': 0, 'epochs': 4, 'batch_size': 16, 'optimizer': _adamw(4)}
  )
  config.teacher.expected_top1 = 55.0
  config.baseline = 'train'
  config.eval_batch_size = 64
  return config


def scenes_detection() -> ConfigDict:
  """Returns what all recipes of the embedded scenes with boxes start from.

  They have the schedule of the scenes with masks, and two small SSDs, of which
  the student has a sixth of the parameters.
  """
  config = scenes_segmentation()
  config.data.name = 'scenes_detection'
  config.student = schema.network('ssd48_resnet10')
  config.teacher.update(schema.network('ssd48_resnet18'))
  config.teacher.expected_top1 = 80.0  # mAP
  return config


def _adamw(epochs: int) -> dict[str, Any]:
  rate = {
    'kind': 'poly', 'value': 4e-3, 'power': 0.9, 'epochs': epochs, 'first': 0,
  }  # fmt: skip
  return {'name': 'adamw', 'weight_decay': 1e-3, 'learning_rate': rate}


def voc(student: str) -> ConfigDict:
  """Returns a DeepLab trained alone on VOC 2012 with SBD, by OFD's code.

  The code begins with a backbone from ImageNet, as does `config.student.init`
  where it names the file of a classifier; without it the start is at random.

  Args:
    student: The network's name.
  """
  config = schema.default()
  config.data.name = 'voc:pascal'
  config.data.image_size = 513
  config.data.augment = 'segmentation'
  config.data.eval_protocol = 'paper'
  config.eval_batch_size = 16
  config.student = schema.network(student)
  _deeplab_schedule(config, epochs=50, batch_size=12, group=6)
  config.optimizer.nesterov = True
  return config


def voc_teacher() -> ConfigDict:
  """Returns the teacher of OFD's segmentation, by the code that it comes from.

  It is a DeepLab with ResNet101, with batches of 16 on 4 GPUs.
  """
  config = voc('deeplab_resnet101')
  config.optimizer.nesterov = False
  return _deeplab_schedule(config, epochs=50, batch_size=16, group=4)


def voc_pair(student: str) -> ConfigDict:
  """Returns `voc_teacher` and a student that learns from it, by OFD's code.

  In the first epoch the method's parameters alone are trained, at a tenth of
  the rate that they have later. The student's ASPP drops nothing.

  Args:
    student: The student's name.
  """
  config = voc(student)
  _deeplab_schedule(config, epochs=49, batch_size=12, group=6, first=1)
  config.student.args.dropout = 'decoder'
  teacher = voc_teacher()
  config.teacher.update(schema.network(teacher.student.name))
  keys = ('epochs', 'batch_size', 'bn_group_size', 'weights')
  config.teacher.recipe = ConfigDict(
    {
      'seed': 0,
      **{key: teacher[key] for key in keys},
      'student': {'init': ''},
      'optimizer': {
        key: teacher.optimizer[key] for key in ('learning_rate', 'rules')
      },
    }
  )
  config.baseline = 'off'  # its 49 epochs would begin at the second's rate
  # A rule multiplies the rate of the heads and the method by ten.
  return initialised(
    config,
    epochs=1,
    weights={},
    trainable=('^method/',),
    learning_rate=_poly(0.0007),
  )


def _deeplab_schedule(
  config: ConfigDict,
  *,
  epochs: int,
  batch_size: int,
  group: int,
  first: int = 0,
) -> ConfigDict:
  config.epochs, config.batch_size = epochs, batch_size
  config.bn_group_size = group
  config.weights.ce = 1 / batch_size
  with config.ignore_type():
    config.optimizer.learning_rate = ConfigDict(_poly(0.007, first))
  heads = '^student/(aspp|decoder)/' + ('|^method/' if first else '')
  tenfold = {'learning_rate': {'kind': 'scaled', 'factor': 10.0}}
  config.optimizer.rules = ((heads, tenfold),)
  return config


def _poly(value: float, first: int = 0) -> dict[str, Any]:
  return {
    'kind': 'poly', 'value': value, 'power': 0.9, 'epochs': 50, 'first': first,
  }  # fmt: skip


def pick(
  recipe: str | None, recipes: Mapping[str, Callable[[], ConfigDict]]
) -> ConfigDict:
  """Returns the configuration of a recipe.

  Args:
    recipe: The recipe's name; None or '' takes the first recipe.
    recipes: The recipes of a configuration file by name.

  Raises:
    UsageError: The name is unknown.
  """
  name = recipe or next(iter(recipes))
  if name not in recipes:
    raise errors.unknown('recipe', name, recipes)
  config = recipes[name]()
  config.recipe = name
  return completing.completed(config)


def files() -> list[epath.Path]:
  """Returns the configuration files that come with kd_jax, sorted by name."""
  package = epath.Path(__file__).parent.parent
  folders = [package / 'configs', package.parent / 'configs']
  paths = {
    path.stem: path
    for folder in folders
    if folder.is_dir()
    for path in folder.glob('*.py')
  }
  return [paths[stem] for stem in sorted(paths)]


def find(name: str) -> str:
  """Returns the path of a configuration file.

  Args:
    name: A path, such as 'configs/fpd.py', or the bare name of a file that
      comes with kd_jax, such as 'fpd' or 'fpd.py'.

  Raises:
    UsageError: There is no such file, or it cannot be a configuration.
  """
  if os.path.isfile(name):
    _check_file(name)
    return name
  paths = {path.stem: path for path in files()}
  stem = epath.Path(name).name.removesuffix('.py')
  if '/' not in name and stem in paths:
    return str(paths[stem])
  raise errors.unknown('configuration file', name, paths)


def _check_file(name: str) -> None:
  """Checks that a file is Python with a function `get_config`, and runs none.

  Raises:
    UsageError: It is not.
  """
  wanted = 'a configuration is a file of Python with a function get_config'
  if not name.endswith('.py'):
    raise errors.UsageError(f'{name} does not end with .py: {wanted}')
  try:
    with open(name, 'rb') as file:
      code = compile(file.read(), name, 'exec', dont_inherit=True)
  except OSError as error:
    raise errors.UsageError(
      f'cannot read {name}: {error.strerror or error}; make it readable'
    ) from error
  except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
    at = getattr(error, 'lineno', None)
    why = getattr(error, 'msg', None) or str(error) or type(error).__name__
    where = f'line {at}: {why}' if at else why
    raise errors.UsageError(
      f'{name} is no Python, {where}: {wanted}'
    ) from error
  names_all = ('*',) in code.co_consts  # from x import *
  if 'get_config' not in code.co_names and not names_all:
    raise errors.UsageError(f'{name} has no get_config: {wanted}')
