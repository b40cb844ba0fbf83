"""What recipes share: pairs of networks, data, schedules; a recipe by name."""

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
  """The configuration with a first phase, at a constant learning rate.

  Args:
    config: of what comes after it.
    epochs: of the phase.
    weights: that differ from `config.weights` in it.
    trainable: see `config.trainable`.
    learning_rate: None is the value that the main schedule begins with.
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
  """The configuration without its teacher."""
  config.teacher = schema.default().teacher
  return config


def tf_fd_recipe(student: str) -> ConfigDict:
  """CIFAR-100 as Teacher-free-Distillation trains: no teacher, Nesterov."""
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
  """A pair of networks on CIFAR-100 with RepDistiller's recipe."""
  config = schema.default()
  config.student = schema.network(student)
  config.teacher.update(schema.network(teacher))
  return config


def small_pair() -> ConfigDict:
  """`pair` of resnet20 and resnet8."""
  return pair('resnet20', 'resnet8')


def imagenet(
  teacher: str = 'resnet34',
  student: str = 'resnet18',
  milestones: tuple[int, ...] = (30, 60, 90),
) -> ConfigDict:
  """A pair of networks on ImageNet with torchdistill's recipe for ResNets.

  100 epochs of batches of 256, rate 0.1 and a tenth of it at the milestones,
  for the student, and for the teacher where `teacher.path` is not given.
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
  """What every embedded recipe shares: data, networks, teacher, schedule."""
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
  config.teacher.expected_top1 = 94.0  # rounding alone moves it: 96.1 to 97.5
  config.baseline = 'train'
  config.eval_batch_size = 192
  config.eval_every = 5.0
  config.checkpoint_every = 15.0
  return config


def pick(
  recipe: str | None, recipes: Mapping[str, Callable[[], ConfigDict]]
) -> ConfigDict:
  """The recipe of a configuration file; the first is the default.

  Raises:
    UsageError: for an unknown name.
  """
  name = recipe or next(iter(recipes))
  if name not in recipes:
    raise errors.unknown('recipe', name, recipes)
  config = recipes[name]()
  config.recipe = name
  return config


def files() -> list[epath.Path]:
  """Returns the configuration files that come with kd_jax, by name."""
  package = epath.Path(__file__).parent.parent
  shipped = [package / 'configs', package.parent / 'configs']
  found = {
    path.stem: path
    for folder in shipped
    if folder.is_dir()
    for path in folder.glob('*.py')
  }
  return [found[stem] for stem in sorted(found)]


def find(name: str) -> str:
  """The path of a configuration file given as a path or as its bare name.

  'configs/fpd.py' is taken as it is; 'fpd' and 'fpd.py' are looked for among
  the files that come with kd_jax, installed or in a checkout.

  Raises:
    UsageError: where there is no such file.
  """
  if epath.Path(name).is_file():
    return name
  known = {path.stem: path for path in files()}
  stem = epath.Path(name).name.removesuffix('.py')
  if '/' not in name and stem in known:
    return str(known[stem])
  raise errors.unknown('configuration file', name, known)
