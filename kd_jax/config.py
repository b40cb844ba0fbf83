"""What a configuration holds, and how a file becomes one.

A configuration is an `ml_collections.ConfigDict`. Files in `configs/` start
from `default()` and change what their paper changes. This lives in the package
so that a file anywhere, also beside an installed wheel, can import it.
"""

from collections.abc import Callable, Mapping
import copy
import hashlib
import json
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from kd_jax import errors

# What may change without changing the result of a run: where and how often
# things are computed and written, and what is only compared with it.
INDIFFERENT = (
  'baseline',
  'cache_dir',
  'checkpoint_every',
  'data.any_checksum',
  'data.archive',
  'data.data_dir',
  'data.device_mb',
  'data.workers',
  'deterministic',
  'eval_batch_size',
  'heartbeat_timeout_seconds',
  'mesh',
  'recipe',
  'steps_per_dispatch',
  'teacher.allow_below_expected',
  'teacher.expected_top1',
  'teacher.sha256',
  'watchdog_seconds',
)


# What a run's teacher takes from the run and not from its own recipe.
_OF_RUN = (
  'cache_dir',
  'data',
  'deterministic',
  'dtype',
  'eval_batch_size',
  'heartbeat_timeout_seconds',
  'mesh',
  'watchdog_seconds',
)


def default() -> ConfigDict:
  """Everything there is to configure, with the defaults of RepDistiller."""
  config = ConfigDict()
  config.recipe = ''  # the name that `pick` found this under
  config.method = 'ce'  # a module of kd_jax.methods, or an import path
  config.method_args = ConfigDict()  # fields of the method's class
  config.weights = ConfigDict({'ce': 1.0})  # number or schedule; 0.0 is off
  config.seed = 0  # decides initialisation, order, crops and flips
  config.epochs = 240  # of floor(images / batch_size) steps
  config.batch_size = 64  # images over all devices
  # Parts of a batch that are computed one after the other, for one update: to
  # fit a small device. BatchNorm and losses over a batch see a part.
  config.accumulate_steps = 1
  # Images that share BatchNorm statistics, in networks and in the method's
  # adapters; 0 is the whole batch.
  config.bn_group_size = 0
  config.dtype = 'float32'  # what networks compute in; or 'bfloat16'

  config.data = ConfigDict()
  config.data.name = 'cifar100'
  config.data.train_size = 0  # a fixed stratified subset; 0 is all
  config.data.val_fraction = 0.0  # of it, held out for choosing
  config.data.image_size = 0  # pixels; 0 is the images' own
  config.data.mean = ()  # of pixels in 0..1; () is the data set's
  config.data.std = ()
  config.data.data_dir = ''  # '': $TFDS_DATA_DIR, else ~/tensorflow_datasets
  config.data.archive = ''  # where its archive is, if you have it
  config.data.any_checksum = False  # take that archive whatever its checksum
  config.data.device_mb = 4096  # a larger training split is streamed
  config.data.workers = 2  # processes that decode a streamed split
  config.data.augment = 'crop_flip'  # or 'random_resized_crop'; then flip
  config.data.area = (0.08, 1.0)  # of a random_resized_crop, least and most
  config.data.crop_padding = 4  # pixels
  config.data.padding_mode = 'zero'  # or 'reflect'; before normalisation
  config.data.flip = True

  config.student = network('resnet8x4')
  config.teacher = network('')  # '' is no teacher
  config.teacher.dtype = ''  # what it computes in as it teaches; '' is `dtype`
  # A run's folder, an export, or a file of PyTorch weights (.safetensors, or
  # .pth with torch installed), at home or https://; '' trains `recipe` or
  # reuses it.
  config.teacher.path = ''
  # Of that file, or its first 8 digits or more; another file is refused.
  config.teacher.sha256 = ''
  config.teacher.mean = ()  # of pixels in 0..1, that it was trained with; () is
  config.teacher.std = ()  # the data set's, as for the student
  # Computes its logits of the training images once, before the first step: for
  # methods that read no more of it, on images that are not cropped at random.
  config.teacher.cache_logits = False
  # What its training changes of these defaults; any other key may be added.
  config.teacher.recipe = ConfigDict(
    {'seed': 0, 'epochs': 240, 'batch_size': 64}
  )
  config.teacher.expected_top1 = 0.0  # percent; less stops the run
  config.teacher.expected_on = 'test'  # the split: test, val or train
  config.teacher.allow_below_expected = False

  # The student trained alone with the same recipe: 'train', 'cache' (shown if
  # an earlier run trained it) or 'off'.
  config.baseline = 'cache'

  config.optimizer = ConfigDict()
  config.optimizer.name = 'sgd'
  config.optimizer.learning_rate = step_schedule(0.05, (150, 180, 210))
  config.optimizer.momentum = 0.9
  config.optimizer.nesterov = False
  config.optimizer.reset_momentum_at = ()  # epochs; see optim.transformation
  config.optimizer.weight_decay = 5e-4  # of every parameter, as torch's
  config.optimizer.clip_norm = 0.0  # of all gradients together; 0 is off
  # ((regular expression, {field: value}), ...): the first that is found in a
  # parameter's path changes these fields for it.
  config.optimizer.rules = ()

  # Only parameters in whose path one of these is found are trained.
  config.trainable = ('.*',)
  # What comes before `epochs`, in the order of the names: each a ConfigDict
  # with 'epochs' and what it changes of 'weights', 'learning_rate' (its epochs
  # count from the phase's start) and 'trainable'. The optimizer starts anew.
  config.phases = ConfigDict()

  config.mesh = ConfigDict({'data': -1})  # devices; -1 is all
  config.steps_per_dispatch = 0  # 0: 1 on CPU, many on GPU and TPU
  config.eval_batch_size = 512  # images
  config.eval_every = 1.0  # epochs
  config.checkpoint_every = 1.0  # epochs
  # Two runs on the same hardware are bit-identical, on a GPU too, where it
  # costs speed; on CPU and TPU they are anyway.
  config.deterministic = False
  # A process that finishes no step for so long is ended (compiling, evaluating
  # and saving count); 0 is for ever.
  config.watchdog_seconds = 1800.0
  # Of several processes: how long one may give no sign of life.
  config.heartbeat_timeout_seconds = 100
  config.cache_dir = ''  # '': $KD_JAX_CACHE, else ~/.cache/kd_jax
  return config


def network(name: str, **args: Any) -> ConfigDict:
  """A network by name, with fields of its class."""
  return ConfigDict({'name': name, 'args': ConfigDict(args)})


def step_schedule(
  value: float, milestones: tuple[int, ...], factor: float = 0.1
) -> ConfigDict:
  """`value`, times `factor` at each milestone (epochs)."""
  return ConfigDict(
    {
      'kind': 'step',
      'value': value,
      'milestones': milestones,
      'factor': factor,
    }
  )


def warmed_up(value: float, epochs: int, first: int = 1) -> ConfigDict:
  """value * min(1, e / epochs) in epoch e, counted from `first`."""
  return ConfigDict(
    {'kind': 'ramp', 'value': value, 'epochs': epochs, 'first': first}
  )


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
  config.teacher = default().teacher
  return config


def tf_fd_recipe(student: str) -> ConfigDict:
  """CIFAR-100 as Teacher-free-Distillation trains: no teacher, Nesterov."""
  config = default()
  config.student = network(student)
  config.batch_size = 128
  config.data.padding_mode = 'reflect'
  config.data.mean = (0.5071, 0.4865, 0.4409)
  config.data.std = (0.2673, 0.2564, 0.2762)
  config.optimizer.learning_rate = step_schedule(0.1, (150, 180, 210))
  config.optimizer.nesterov = True
  return config


def pair(teacher: str = 'resnet32x4', student: str = 'resnet8x4') -> ConfigDict:
  """A pair of networks on CIFAR-100 with RepDistiller's recipe."""
  config = default()
  config.student = network(student)
  config.teacher.update(network(teacher))
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
  rate = step_schedule(0.1, milestones)
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
  config = default()
  config.data.name = 'digits'
  config.data.train_size = 300
  config.data.crop_padding = 1
  config.data.flip = False
  config.epochs = 60
  config.batch_size = 32
  config.optimizer.learning_rate = step_schedule(0.05, (36, 48))
  config.student = network('resnet8', widths=(8, 8, 16, 32))
  config.teacher.update(network('resnet20', widths=(16, 16, 32, 64)))
  config.teacher.recipe = ConfigDict(
    {
      'seed': 0,
      'epochs': 60,
      'batch_size': 32,
      'optimizer': {'learning_rate': step_schedule(0.05, (36, 48))},
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


def of_teacher(config: ConfigDict) -> ConfigDict:
  """The configuration that trains the teacher of a distillation run.

  It takes the data from the run and all else from the defaults and the
  teacher's recipe, so that every run and seed with this teacher shares it.
  """
  result = default()
  for key in _OF_RUN:
    result[key] = copy.deepcopy(config[key])
  args = config.teacher.args.to_dict()
  args.pop('batch_norm', None)  # how the teacher is used, not trained
  result.student = network(config.teacher.name, **args)
  result.baseline = 'off'
  recipe = config.teacher.recipe.to_dict()
  rate = recipe.get('optimizer', {}).pop('learning_rate', None)
  if rate is not None:  # whole, not merged with the default's
    result.optimizer.learning_rate = (
      ConfigDict(rate) if isinstance(rate, dict) else rate
    )
  try:
    result.lock().update(recipe)
  except (AttributeError, KeyError, TypeError) as error:
    raise errors.UsageError(
      f'config.teacher.recipe: {" ".join(str(error.args[0]).split())}'
    ) from error
  return result


def of_baseline(config: ConfigDict) -> ConfigDict:
  """The configuration that trains a run's student alone, all else equal."""
  result = config.copy_and_resolve_references()
  fresh = default()
  for key in (
    'method', 'method_args', 'weights', 'teacher', 'trainable', 'phases'
  ):  # fmt: skip
    result[key] = fresh[key]
  # Without the rules of what is not there.
  result.optimizer.rules = tuple(
    rule
    for rule in result.optimizer.rules
    if not rule[0].startswith(('^method', '^leader', '^student_'))
  )
  result.baseline = 'off'
  return result


def plain(config: ConfigDict) -> dict[str, Any]:
  """The configuration as JSON has it: dicts, lists, numbers, strings.

  Raises:
    UsageError: for a value that JSON cannot hold, such as a function.
  """
  try:
    return json.loads(json.dumps(config.to_dict()))
  except TypeError as error:
    raise errors.UsageError(
      f'the configuration holds a value that cannot be saved: {error}; write '
      'schedules as dicts and classes as import paths'
    ) from error


def determining(values: Mapping[str, Any]) -> dict[str, Any]:
  """`values` of `plain` without what is indifferent to a run's result."""
  kept = copy.deepcopy(dict(values))
  for path in INDIFFERENT:
    *groups, last = path.split('.')
    group = kept
    for name in groups:
      group = group.get(name, {})
    group.pop(last, None)
  return kept


def digest(config: ConfigDict, more: Any = None) -> str:
  """A short name of all that determines a run's result, 8 hex digits."""
  text = json.dumps([determining(plain(config)), more], sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:8]


def difference(old: Any, new: Any, path: str = 'config') -> list[str]:
  """One line for each value in which two plain configurations differ."""
  if isinstance(old, dict) and isinstance(new, dict):
    lines = []
    for key in sorted({*old, *new}):
      lines += difference(
        old.get(key, '(absent)'), new.get(key, '(absent)'), f'{path}.{key}'
      )
    return lines
  return [] if old == new else [f'{path}: {old!r} there, {new!r} here']


def find(name: str) -> str:
  """The path of a configuration file given as a path or as its bare name.

  'configs/fpd.py' is taken as it is; 'fpd' and 'fpd.py' are looked for among
  the files that come with kd_jax, installed or in a checkout.

  Raises:
    UsageError: where there is no such file.
  """
  if epath.Path(name).is_file():
    return name
  package = epath.Path(__file__).parent
  shipped = [package / 'configs', package.parent / 'configs']
  files = {
    path.stem: path
    for folder in shipped
    if folder.is_dir()
    for path in folder.glob('*.py')
  }
  stem = epath.Path(name).name.removesuffix('.py')
  if '/' not in name and stem in files:
    return str(files[stem])
  raise errors.unknown('configuration file', name, files)
