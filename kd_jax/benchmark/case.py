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
from kd_jax import errors, features
from kd_jax.benchmark import cost
from kd_jax.data import augment, resident, source
from kd_jax.distill import build, inspect, jitted, step
from kd_jax.runtime import sharding

MEAN, STD = (0.5,) * 3, (0.25,) * 3  # of random pixels' channels


class Wanted(NamedTuple):
  """What is asked of a configuration; None leaves its own.

  Attributes:
    student: a network's name.
    teacher: likewise; only where there is a teacher.
    dtype: see `config.dtype`.
    image_size: pixels.
    classes: K.
    batch_size: images, over all devices.
    steps_per_dispatch: 0 is as a run chooses.
    images: of the data set.
    devices: of the mesh; -1 is all.
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


@dataclasses.dataclass
class Case:
  """A configuration, ready to be timed.

  Attributes:
    label: how it is called.
    config: what it was built from.
    wanted: what was asked for.
    exp: its first phase's.
    train: the random images.
    state: what is trained.
    frozen: the teachers' variables.
    compiled: the dispatch.
    count: steps of a dispatch.
    compile_s: seconds to trace and compile it.
    costs: of a step.
    mesh: the devices.
    feeds: what the host gives.
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
  compile_s: float
  costs: cost.Costs
  mesh: Mesh
  feeds: Any

  @property
  def dtype(self) -> str:
    """What its networks compute in."""
    return self.config.dtype

  @property
  def batch_size(self) -> int:
    """Images of a step."""
    return self.wanted.batch_size

  @property
  def chips(self) -> int:
    """Returns how many chips it runs on; a CPU's fake devices share one."""
    devices = self.mesh.devices.ravel()
    return 1 if devices[0].platform == 'cpu' else len(devices)

  @property
  def student_params(self) -> int:
    """Parameters of the networks that are trained."""
    return sum(_size(self.state.params[name]) for name in self.exp.students)

  @property
  def extra_params(self) -> int:
    """Parameters that are trained beside the networks."""
    return _size(self.state.params['method'])

  @functools.cached_property
  def kept_params(self) -> int:
    """Parameters at inference."""
    return inspect.deployed(self.exp, self.wanted.image_size).params

  def next_feeds(self) -> Any:
    """What the host gives to a dispatch, as the loop gives it."""
    feeds = [next(self.feeds) for _ in range(self.count)]
    stacked = jax.tree.map(lambda *xs: np.stack(xs), *feeds)
    return sharding.join(stacked, self.mesh, 1)

  def turn(self, steps: int) -> cost.Turn:
    """At least `steps` steps, until the device is done."""
    dispatches = max(1, steps // self.count)
    waited, began = 0.0, time.perf_counter()
    for _ in range(dispatches):
      asked = time.perf_counter()
      feeds = self.next_feeds()
      waited += time.perf_counter() - asked
      self.state, terms = self.compiled(
        np.int32(0), self.state, self.frozen, self.train.arrays, feeds
      )
    jax.block_until_ready((self.state, terms))
    each = 1e3 / (dispatches * self.count)
    return cost.Turn(each * (time.perf_counter() - began), each * waited)


def _size(params: Any) -> int:
  return sum(math.prod(x.shape) for x in jax.tree.leaves(params))


def make(name: str, label: str, wanted: Wanted) -> Case:
  """Builds and compiles a configuration.

  Raises:
    UsageError: for whatever does not exist or does not fit together.
  """
  config = configured(name, wanted)
  mesh = sharding.make_mesh(wanted.devices)
  sharding.check_batch(mesh, wanted.batch_size, '--batch_size')
  exp = experiment(config, wanted)
  train = _train_set(config, wanted, mesh)
  if config.teacher.cache_logits:
    views = len(train.views(jnp.zeros((1, 1, 1, 3))))
    logits = np.zeros((wanted.images, views, wanted.classes), np.float32)
    train.arrays |= sharding.put(
      {features.known(name): logits for name in exp.teachers},
      sharding.replicated(mesh),
    )
  whole = sharding.replicated(mesh)
  key = jax.random.key(1)
  state, frozen = jax.jit(
    functools.partial(start, exp, wanted.image_size, wanted.batch_size),
    out_shardings=whole,
  )(key)
  count = _steps_per_dispatch(wanted)
  index = np.zeros((count, wanted.batch_size), np.int32)
  run = jitted.train_steps(exp, train.batch, mesh)
  began = time.perf_counter()
  traced = run.trace(np.int32(0), state, frozen, train.arrays, {'index': index})
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
    compile_s=compile_s,
    costs=cost.of(traced, compiled, count),
    mesh=mesh,
    feeds=train.feeds(0),
  )


def experiment(config: ConfigDict, wanted: Wanted) -> step.Experiment:
  """The configuration's first phase.

  Raises:
    UsageError: for whatever does not exist or does not fit together.
  """
  epoch = wanted.images // wanted.batch_size
  if not epoch:
    raise errors.UsageError(
      f'--images={wanted.images} is less than a batch of {wanted.batch_size}'
    )
  facts = {'num_classes': wanted.classes, 'train_labels': _labels(wanted)}
  exp = build.phases_of(config, facts, epoch)[0].exp
  inspect.shapes(exp, wanted.image_size, wanted.batch_size)
  return exp


def _labels(wanted: Wanted) -> np.ndarray:
  return np.arange(wanted.images, dtype=np.int32) % wanted.classes


def configured(name: str, wanted: Wanted) -> ConfigDict:
  """The configuration with what is wanted in place of its own."""
  config = load(name)
  config.batch_size = wanted.batch_size
  if wanted.dtype:
    if wanted.dtype not in build.DTYPES:
      raise errors.unknown('value of --dtype:', wanted.dtype, build.DTYPES)
    config.dtype = wanted.dtype
  if wanted.student:
    config.student = config_lib.network(wanted.student)
  if wanted.teacher and config.teacher.name:
    mode = config.teacher.args.to_dict().get('batch_norm')
    own = {'batch_norm': mode} if mode else {}
    config.teacher.update(config_lib.network(wanted.teacher))
    config.teacher.args = ConfigDict(own)
  return config


def load(name: str) -> ConfigDict:
  """The configuration of 'fpd', 'fpd:digits' or a file."""
  import importlib.util

  path, _, recipe = name.partition(':')
  spec = importlib.util.spec_from_file_location('_', config_lib.find(path))
  assert spec is not None
  assert spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(recipe or None)


def start(
  exp: step.Experiment, image_size: int, batch_size: int, key: Any
) -> tuple[Any, Any]:
  """The first state, and the teachers' variables."""
  shapes = inspect.example(image_size, batch_size)
  batch = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  frozen = {}
  for name, network in exp.teachers.items():
    frozen[name] = step.variables_of(network, key, batch['image'])
  state = step.init(exp, jnp.int32(0), frozen, batch)
  return state, step.fold(exp, frozen, batch['image'])


def _train_set(
  config: ConfigDict, wanted: Wanted, mesh: Mesh
) -> resident.Training:
  """Random images on the device, cropped and flipped as the run's are."""
  size, labels = wanted.image_size, _labels(wanted)
  mega = len(labels) * size**2 * 3 / 1e6
  if mega > config.data.device_mb:
    raise errors.UsageError(
      f'--images={wanted.images} of {size} pixels are {mega:.0f} MB, which a '
      f'run would stream (config.data.device_mb={config.data.device_mb}); '
      'give fewer'
    )
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (len(labels), size, size, 3), np.uint8)
  names = tuple(str(k) for k in range(wanted.classes))
  info = source.Info('random', names, size, len(labels), 0, MEAN, STD)
  return resident.Training(
    source.Arrays(image, labels),
    info,
    mesh,
    batch_size=wanted.batch_size,
    seed=0,
    crop_flip=crop_flip(config, size),
  )


def crop_flip(config: ConfigDict, image_size: int) -> augment.CropFlip:
  """What the device does to images of a configuration."""
  given = config.data
  resized = given.augment == 'random_resized_crop'  # the host's work
  padding = 0 if resized else min(given.crop_padding, image_size - 1)
  return augment.CropFlip(padding, given.padding_mode, given.flip)


def _steps_per_dispatch(wanted: Wanted) -> int:
  """As `loop.Loop` chooses."""
  if wanted.steps_per_dispatch:
    return wanted.steps_per_dispatch
  epoch = wanted.images // wanted.batch_size
  return jitted.steps_per_dispatch(jax.default_backend(), epoch)
