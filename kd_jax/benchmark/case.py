"""A configuration as a benchmark runs it: compiled, on random images."""

import dataclasses
import functools
import math
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict
import numpy as np

from kd_jax import config as config_lib
from kd_jax import errors, features, models, tasks
from kd_jax.benchmark import cost
from kd_jax.data import augment, resident, source
from kd_jax.distill import augmented, build, inspect, jitted, step
from kd_jax.distill import images as images_lib
from kd_jax.distill import parts as parts_lib
from kd_jax.runtime import sharding

MEAN, STD = (0.5,) * 3, (0.25,) * 3  # of each channel of the random images


class Wanted(NamedTuple):
  """The requested variant of a configuration; None keeps the configuration's.

  Attributes:
    student: The name of a network.
    teacher: The name of a network; ignored if the configuration has no teacher.
    dtype: See `config.dtype`.
    image_size: Height and width in pixels.
    classes: The number of classes, K.
    batch_size: Images of a step, over all devices.
    steps_per_dispatch: Steps of a dispatch; 0 is what a run would choose.
    images: Images of the data set.
    devices: Devices of the mesh; -1 is all.
    teacher_ahead: Steps that the teacher runs ahead; 0 is what a run would
      choose.
    seeds: The number of seeds that train together in one program.
  """

  student: str | None
  teacher: str | None
  dtype: str | None
  image_size: int
  classes: int
  batch_size: int
  steps_per_dispatch: int
  images: int
  devices: int
  teacher_ahead: int = 0
  seeds: int = 1


@dataclasses.dataclass
class Case:
  """A configuration, ready to be timed.

  Attributes:
    label: Its name in the tables.
    config: The configuration that it was built from.
    wanted: The requested variant.
    exp: The experiment of the first phase.
    train: The training split, with random images.
    state: The training state; with several seeds a tuple of theirs.
    frozen: The teachers' variables by name.
    compiled: The compiled dispatch.
    count: Steps of a dispatch.
    ahead: Steps that the teacher runs ahead.
    compile_s: Seconds to trace and compile the dispatch.
    costs: The costs of a step.
    mesh: The devices.
    feeds: The feeds of the split, from its first step.
  """

  label: str
  config: ConfigDict
  wanted: Wanted
  exp: step.Experiment
  train: resident.Training
  state: Any
  frozen: Any
  compiled: Any
  count: int
  ahead: int
  compile_s: float
  costs: cost.Costs
  mesh: Mesh
  feeds: Any

  @property
  def dtype(self) -> str:
    """The dtype that the networks compute in."""
    return self.config.dtype

  @property
  def batch_size(self) -> int:
    """Images of a step, of all seeds."""
    return self.wanted.batch_size * self.wanted.seeds

  @property
  def chips(self) -> int:
    """How many chips the case runs on; a CPU's fake devices share one."""
    devices = self.mesh.devices.ravel()
    return 1 if devices[0].platform == 'cpu' else len(devices)

  @property
  def student_params(self) -> int:
    """How many parameters of networks are trained."""
    return sum(_size(self._params[name]) for name in self.exp.students)

  @property
  def extra_params(self) -> int:
    """How many of the method's own parameters are trained."""
    return _size(self._params['method'])

  @property
  def _params(self) -> Any:
    """The parameters of the first seed, by the names of the networks."""
    return (self.state if self.wanted.seeds == 1 else self.state[0]).params

  @functools.cached_property
  def kept_params(self) -> int:
    """How many parameters inference needs."""
    size, count = self.wanted.image_size, self.wanted.batch_size
    return inspect.trace(self.exp, size, count).deployed.params

  def next_feeds(self) -> Any:
    """Returns the next feeds of a dispatch, as the training loop makes them."""
    feeds = [next(self.feeds) for _ in range(self.count)]
    stacked = jax.tree.map(lambda *xs: np.stack(xs), *feeds)
    if self.wanted.seeds > 1:
      return for_seeds(stacked, self.wanted.seeds)
    return sharding.join(stacked, self.mesh, 1)

  def turn(self, steps: int) -> cost.Turn:
    """Runs at least `steps` steps, and waits until the device has finished.

    Returns:
      The time of a step.
    """
    dispatches = max(1, steps // self.count)
    waited, began = 0.0, time.perf_counter()
    for _ in range(dispatches):
      asked = time.perf_counter()
      feeds = self.next_feeds()
      waited += time.perf_counter() - asked
      done = self.compiled(
        first_seeds(self.wanted.seeds),
        self.state,
        self.frozen,
        self.train.arrays,
        feeds,
      )
      several = self.wanted.seeds > 1
      self.state = tuple(state for state, _ in done) if several else done[0]
    jax.block_until_ready(done)
    ms_per_s = 1e3 / (dispatches * self.count)
    return cost.Turn(
      ms_per_s * (time.perf_counter() - began), ms_per_s * waited
    )


def first_seeds(count: int) -> Any:
  """Returns seed 0, [] i32, or the seeds 0 to count - 1, [R] i32."""
  return np.int32(0) if count == 1 else np.arange(count, dtype=np.int32)


def for_seeds(feeds: Any, count: int) -> Any:
  """Returns the feeds of a dispatch for each of several seeds, [R,S,...]."""
  return jax.tree.map(lambda x: np.stack([x] * count), feeds)


def _size(params: Any) -> int:
  return sum(math.prod(x.shape) for x in jax.tree.leaves(params))


def make(name: str, label: str, wanted: Wanted) -> Case:
  """Builds and compiles a configuration.

  Args:
    name: The configuration, as `load` takes it.
    label: Its name in the tables.
    wanted: The requested variant.

  Raises:
    UsageError: A part of the configuration does not exist or does not fit.
  """
  config = configured(name, wanted)
  with errors.keys(data='--devices'):
    mesh = sharding.make_mesh(wanted.devices)
  sharding.check_batch(mesh, wanted.batch_size, '--batch_size')
  exp = experiment(config, wanted)
  train = _train_set(config, wanted, mesh, exp.method.task)
  if config.teacher.cache_logits:
    views = len(train.views(jnp.zeros((1, 1, 1, 3))))
    logits = np.zeros((wanted.images, views, wanted.classes), np.float32)
    train.arrays |= sharding.put(
      {features.known(name): logits for name in exp.teachers},
      sharding.replicated(mesh),
    )
  replicated = sharding.replicated(mesh)
  key = jax.random.key(1)
  state, frozen = jax.jit(
    functools.partial(start, exp, wanted.image_size, wanted.batch_size),
    out_shardings=replicated,
  )(key)
  count, ahead, _ = steps(config, exp, wanted, mesh)
  feeds: Any = {'index': np.zeros((count, wanted.batch_size), np.int32)}
  dispatch = jitted.train_steps(exp, train.batch, mesh, ahead)
  if wanted.seeds > 1:
    dispatch = jitted.train_steps_together(exp, train.batch, mesh, ahead)
    feeds = for_seeds(feeds, wanted.seeds)
    copies = (jax.tree.map(jnp.copy, state) for _ in range(wanted.seeds))
    state = tuple(copies)
  began = time.perf_counter()
  traced = dispatch.trace(
    first_seeds(wanted.seeds), state, frozen, train.arrays, feeds
  )
  compiled = traced.lower().compile()
  compile_s = time.perf_counter() - began
  return Case(
    label=label,
    config=config,
    wanted=wanted,
    exp=exp,
    train=train,
    state=state,
    frozen=frozen,
    compiled=compiled,
    count=count,
    ahead=ahead,
    compile_s=compile_s,
    costs=cost.of(traced, compiled, count),
    mesh=mesh,
    feeds=train.feeds(0),
  )


def experiment(config: ConfigDict, wanted: Wanted) -> step.Experiment:
  """Returns the experiment of the configuration's first phase.

  Raises:
    UsageError: A part of the configuration does not exist or does not fit, or
      the data set is smaller than a batch.
  """
  epoch = wanted.images // wanted.batch_size
  if not epoch:
    raise errors.UsageError(
      f'--images={wanted.images} is less than a batch of {wanted.batch_size}'
    )
  student = build.make_network(config.student, wanted.classes, config.dtype)
  facts = {
    'num_classes': wanted.classes,
    'train_labels': _labels(wanted),
    'task': tasks.find(models.task(student)),
  }
  exp = build.phases_of(config, facts, epoch)[0].exp
  with errors.keys('config.method_args.'):
    inspect.trace(exp, wanted.image_size, wanted.batch_size)
  return exp


def _labels(wanted: Wanted) -> np.ndarray:
  return np.arange(wanted.images, dtype=np.int32) % wanted.classes


def configured(name: str, wanted: Wanted) -> ConfigDict:
  """Returns the configuration called `name` with the wanted values.

  Raises:
    UsageError: The configuration or the dtype is unknown.
  """
  config = config_lib.load(name)
  config.batch_size = wanted.batch_size
  config.steps_per_dispatch = wanted.steps_per_dispatch
  config.teacher_ahead = wanted.teacher_ahead
  if wanted.dtype:
    if wanted.dtype not in build.DTYPES:
      raise errors.unknown('value of --dtype:', wanted.dtype, build.DTYPES)
    config.dtype = wanted.dtype
  if wanted.student:
    config.student = config_lib.network(wanted.student)
  if wanted.teacher and config.teacher.name:
    mode = config.teacher.args.to_dict().get('batch_norm')
    args = {'batch_norm': mode} if mode else {}
    config.teacher.update(config_lib.network(wanted.teacher))
    config.teacher.args = ConfigDict(args)
  return config


def start(
  exp: step.Experiment, image_size: int, batch_size: int, key: Any
) -> tuple[Any, Any]:
  """Returns the first training state, and the teachers' folded variables."""
  shapes = inspect.example(image_size, batch_size, exp.method.task)
  batch = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  frozen = {}
  for name, network in exp.teachers.items():
    seen = images_lib.resized(batch['image'], exp.sizes.get(name, 0))
    frozen[name] = step.variables_of(network, key, seen)
  state = step.init(exp, jnp.int32(0), frozen, batch)
  return state, step.fold(exp, frozen, batch['image'])


def targets(task: str, wanted: Wanted) -> dict[str, np.ndarray]:
  """Returns random targets of all images, by their key in a batch.

  They are labels [M] i32, masks [M,H,W] u8, or two objects an image.

  Args:
    task: The name of the task.
    wanted: The requested sizes.
  """
  rng = np.random.default_rng(1)
  images, classes, size = wanted.images, wanted.classes, wanted.image_size
  if task == 'segmentation':
    return {'label': rng.integers(0, classes, (images, size, size), np.uint8)}
  if task == 'detection':
    corner = rng.uniform(0, 0.5, (images, 2, 2))
    far = corner + rng.uniform(0.1, 0.5, corner.shape)
    return {
      'label': rng.integers(0, classes, (images, 2), np.int32),
      'boxes': np.concatenate([corner, far], axis=-1).astype(np.float32),
      'difficult': np.zeros((images, 2), bool),
    }
  return {'label': _labels(wanted)}


def _train_set(
  config: ConfigDict, wanted: Wanted, mesh: Mesh, task: tasks.Task
) -> resident.Training:
  """Returns random images on the device, augmented as the run augments its own.

  Raises:
    UsageError: The images are so large that a run would stream them.
  """
  size, count = wanted.image_size, wanted.images
  megabytes = count * size**2 * 3 / 1e6
  if megabytes > config.data.device_mb:
    raise errors.UsageError(
      f'--images={wanted.images} of {size} pixels are {megabytes:.0f} MB, '
      'which a run would stream '
      f'(config.data.device_mb={config.data.device_mb}); give fewer'
    )
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (count, size, size, 3), np.uint8)
  names = tuple(str(number) for number in range(wanted.classes))
  info = source.Info('random', names, size, count, 0, MEAN, STD, task=task.name)
  others = targets(task.name, wanted)
  return resident.Training(
    source.Arrays(image, others.pop('label'), others),
    info,
    mesh,
    batch_size=wanted.batch_size,
    seed=0,
    crop_flip=crop_flip(config, size),
    mixed=augmented.mixed(config, wanted.classes),
  )


def crop_flip(config: ConfigDict, image_size: int) -> augment.CropFlip:
  """Returns the augmentation that a configuration does on the device."""
  data = config.data
  by_host = augmented.by_workers(config)
  padding = 0 if by_host else min(data.crop_padding, image_size - 1)
  return augment.CropFlip(padding, data.padding_mode, data.flip)


def steps(
  config: ConfigDict, exp: step.Experiment, wanted: Wanted, mesh: Mesh
) -> parts_lib.Dispatch:
  """Returns the steps of a dispatch, as a run with resident images has them.

  Args:
    config: The configuration, as `configured` returns it.
    exp: Its experiment.
    wanted: The requested variant.
    mesh: The chips, which need not be there.

  Raises:
    UsageError: The teacher cannot run ahead as it is asked to.
  """
  size, batch_size = wanted.image_size, wanted.batch_size
  return build.dispatch(
    config,
    exp,
    lambda: inspect.trace(exp, size, batch_size),
    mesh,
    size,
    wanted.images // batch_size,
    streams=False,
    seeds=wanted.seeds,
  )
