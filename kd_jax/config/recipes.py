"""Building blocks of the recipes in `configs/`, and the search for a recipe."""

from collections.abc import Callable, Mapping

from etils import epath
from ml_collections import ConfigDict

from kd_jax import errors
from kd_jax.config import schema


def initialised(
  config: ConfigDict,
  *,
  epochs: int,
  weights: Mapping[str, float],
  trainable: tuple[str, ...],
  learning_rate: float | None = None,
) -> ConfigDict:
  """Adds an initial phase at a constant learning rate; returns `config`.

  Args:
    config: The configuration of the training after that phase; it is changed.
    epochs: The length of the phase in epochs.
    weights: The loss weights of the phase that differ from `config.weights`.
    trainable: The value of `config.trainable` in the phase.
    learning_rate: The learning rate; None takes the first value of
      `config.optimizer.learning_rate`.
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

  Args:
    teacher: The teacher's name.
    student: The student's name.
  """
  config = schema.default()
  config.student = schema.network(student)
  config.teacher.update(schema.network(teacher))
  return config


def small_pair() -> ConfigDict:
  """Returns `pair` with resnet20 as the teacher and resnet8 as the student."""
  return pair('resnet20', 'resnet8')


def imagenet(
  teacher: str = 'resnet34',
  student: str = 'resnet18',
  milestones: tuple[int, ...] = (30, 60, 90),
) -> ConfigDict:
  """Returns a pair of networks on ImageNet with torchdistill's ResNet recipe.

  The recipe has 100 epochs, batch size 256 and learning rate 0.1, times 0.1 at
  each milestone. It trains the student, and the teacher too if `teacher.path`
  is not set.

  Args:
    teacher: The teacher's name.
    student: The student's name.
    milestones: The epochs at which the learning rate drops.
  """
  config = pair(teacher, student)
  config.data.name = 'imagenet2012'
  config.data.augment = 'random_resized_crop'
  config.data.image_size = 224
  config.epochs, config.batch_size = 100, 256
  rate = schema.step_schedule(0.1, milestones)
  config.optimizer.update({'learning_rate': rate, 'weight_decay': 1e-4})
  config.teacher.recipe = ConfigDict(
    {
      'seed': 0,
      'epochs': 100,
      'batch_size': 256,
      'optimizer': {'learning_rate': rate, 'weight_decay': 1e-4},
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
  return config


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
    UsageError: There is no such file.
  """
  if epath.Path(name).is_file():
    return name
  paths = {path.stem: path for path in files()}
  stem = epath.Path(name).name.removesuffix('.py')
  if '/' not in name and stem in paths:
    return str(paths[stem])
  raise errors.unknown('configuration file', name, paths)
