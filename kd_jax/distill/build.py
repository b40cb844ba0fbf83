"""From a configuration to everything static, checked before data is read."""

from collections.abc import Callable, Mapping
import re
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict
import numpy as np
import optax

from kd_jax import config as config_lib
from kd_jax import data, errors, models
from kd_jax.data import source
from kd_jax.distill import inspect, optim, step
from kd_jax.features import NetFeatures
from kd_jax.methods import base, registry
from kd_jax.runtime import sharding

DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}


class Phase(NamedTuple):
  """A stretch of a run over the same networks.

  Attributes:
    name: '' of the last one.
    exp: networks, method, and the phase's weights and optimizer.
    first: its first step.
    last: the step after its last one.
    rules: the regular expressions that name parameters.
  """

  name: str
  exp: step.Experiment
  first: int
  last: int
  rules: tuple[str, ...]


class Parts(NamedTuple):
  """What a run is made of.

  Attributes:
    source: the data set; its images are not read yet.
    mesh: the devices.
    phases: what is trained, one phase after the other.
    features: shapes and dtypes of every tap of every network.
    deployed: what is kept at inference.
    steps_per_epoch: floor(images / batch).
  """

  source: source.Source
  mesh: Mesh
  phases: tuple[Phase, ...]
  features: NetFeatures
  deployed: inspect.Deployed
  steps_per_epoch: int

  @property
  def exp(self) -> step.Experiment:
    """The last phase's, whose networks and method are those of all."""
    return self.phases[-1].exp

  @property
  def total_steps(self) -> int:
    """Steps of the whole run."""
    return self.phases[-1].last

  @property
  def epochs(self) -> int:
    """Epochs of the whole run."""
    return self.total_steps // self.steps_per_epoch

  def phase(self, done: int) -> Phase:
    """The phase that goes on after `done` steps."""
    return next((p for p in self.phases if done < p.last), self.phases[-1])


def build(config: ConfigDict) -> Parts:
  """Builds and checks all parts of a run.

  Raises:
    UsageError: for whatever does not exist or does not fit together.
  """
  config_lib.check_values(config)
  mesh = sharding.make_mesh(config.mesh.data)
  for key in ('batch_size', 'eval_batch_size'):
    sharding.check_batch(mesh, config[key], f'config.{key}')
  config_lib.check_batch(config, mesh.shape['data'])
  known = data.facts(config.data.name, config.data.image_size)
  if known:  # what does not fit is said before data is fetched
    check(config, *known)
  opened = open_source(config)
  info = opened.info
  if config.teacher.expected_on == 'val' and not info.num_val:
    raise errors.UsageError(
      f"config.teacher.expected_on='val': {info.name} has no split 'val'; set "
      "config.data.val_fraction, or give 'test' or 'train'"
    )
  if config.teacher.cache_logits and not resident(config, info, 'train'):
    raise errors.UsageError(
      'config.teacher.cache_logits=True: the training images would be streamed '
      '(config.data.device_mb), and the logits are kept beside images on the '
      'device'
    )
  steps_per_epoch = info.num_train // config.batch_size
  if not steps_per_epoch:
    raise errors.UsageError(
      f'config.batch_size={config.batch_size} is more than the '
      f'{info.num_train} training images; take at most so many'
    )
  if not 0 <= config.data.crop_padding < info.image_size:
    raise errors.UsageError(
      f'config.data.crop_padding={config.data.crop_padding}: the images have '
      f'{info.image_size} pixels; give less'
    )
  facts: dict[str, Any] = {
    'num_classes': len(info.class_names),
    'mean': info.mean,
    'std': info.std,
  }
  if 'train_labels' in registry.fields(registry.method_class(config.method)):
    facts['train_labels'] = opened.split('train').labels
  phases = phases_of(config, facts, steps_per_epoch)
  size = info.image_size
  features = [
    inspect.shapes(
      p.exp, size, config.batch_size, p.rules, config.teacher.cache_logits
    )
    for p in phases
  ]
  return Parts(
    source=opened,
    mesh=mesh,
    phases=phases,
    features=features[-1],
    deployed=inspect.deployed(phases[-1].exp, size),
    steps_per_epoch=steps_per_epoch,
  )


def check(config: ConfigDict, classes: int, image_size: int) -> None:
  """Checks what can be checked without the data set.

  Raises:
    UsageError: for whatever does not exist or does not fit together.
  """
  labels = np.arange(classes, dtype=np.int32)  # those of the data come later
  facts = {'num_classes': classes, 'train_labels': labels}
  for phase in phases_of(config, facts, 1):
    inspect.shapes(
      phase.exp,
      image_size,
      config.batch_size,
      phase.rules,
      config.teacher.cache_logits,
    )


def resident(config: ConfigDict, info: source.Info, split: str) -> bool:
  """Whether a split's images may live on the device."""
  images = {
    'train': info.num_train,
    'val': info.num_val,
    'test': info.num_test,
  }[split]
  return images * info.image_size**2 * 3 <= config.data.device_mb * 1e6


def open_source(config: ConfigDict) -> source.Source:
  """The data set of `config.data`."""
  given = config.data
  return data.open_source(
    given.name,
    train_size=given.train_size,
    val_fraction=given.val_fraction,
    image_size=given.image_size,
    mean=tuple(given.mean),
    std=tuple(given.std),
    data_dir=given.data_dir,
    archive=given.archive,
    any_checksum=given.any_checksum,
  )


def phases_of(
  config: ConfigDict, facts: Mapping[str, Any], steps_per_epoch: int
) -> tuple[Phase, ...]:
  """The phases of a run; without `config.phases` there is one.

  Args:
    config: of the run.
    facts: what a method may want to know of the data: 'num_classes' and
      'train_labels' [N] i32.
    steps_per_epoch: steps in an epoch.

  Raises:
    UsageError: for whatever does not exist or does not fit together.
  """
  phases: list[Phase] = []
  for name in (*sorted(config.phases), ''):
    own = config.copy_and_resolve_references()
    for key, value in (config.phases[name] if name else {}).items():
      if key == 'learning_rate':
        with own.ignore_type():
          own.optimizer.learning_rate = value
      elif key == 'weights':
        with own.ignore_type(), own.unlocked():
          for term, weight in value.items():
            own.weights[term] = weight
      elif key in ('epochs', 'trainable'):
        with own.ignore_type():
          own[key] = value
      else:
        known = ('epochs', 'learning_rate', 'trainable', 'weights')
        raise errors.unknown(f'field of config.phases.{name}:', key, known)
    if not isinstance(own.epochs, int) or own.epochs < 1:
      where = f'config.phases.{name}' if name else 'config'
      raise errors.UsageError(
        f'{where}.epochs={own.epochs} must be a whole number of 1 or more'
      )
    first = phases[-1].last if phases else 0
    last = first + own.epochs * steps_per_epoch
    exp = experiment(own, facts, steps_per_epoch, first)
    rules = (*(rule[0] for rule in own.optimizer.rules), *own.trainable)
    phases.append(Phase(name, exp, first, last, rules))
  return tuple(phases)


def experiment(
  config: ConfigDict,
  facts: Mapping[str, Any],
  steps_per_epoch: int,
  first: int = 0,
) -> step.Experiment:
  """Networks, method, weights and optimizer of a phase.

  Args:
    config: of the phase.
    facts: see `phases_of`.
    steps_per_epoch: steps in an epoch.
    first: the phase's first step; schedules count from there.
  """
  classes = facts['num_classes']
  method = _method(config, facts)
  tx, trained = _optimizer(config, steps_per_epoch)
  return step.Experiment(
    students={
      name: make_network(
        config.student, classes, config.dtype, config.bn_group_size
      )
      for name in method.students
    },
    teachers=_teachers(config, classes, method),
    method=method,
    weights=_weights(config, method, steps_per_epoch, first),
    tx=tx,
    trained=trained,
    accumulate_steps=config.accumulate_steps,
    inputs=_inputs(config, facts, method),
  )


def _inputs(
  config: ConfigDict, facts: Mapping[str, Any], method: base.Method
) -> dict[str, tuple[list[float], list[float]]]:
  """How the teachers see images that are normalised for the students."""
  given = config.teacher
  for key in ('mean', 'std'):
    if len(given[key]) not in (0, 3) or (key == 'std' and 0 in given[key]):
      raise errors.UsageError(
        f'config.teacher.{key}={given[key]}: give 3 numbers, of pixels in 0..1'
      )
  if 'mean' not in facts:  # the data set is not known yet
    return {}
  mean, std = (np.asarray(facts[k], np.float64) for k in ('mean', 'std'))
  theirs = np.asarray(given.mean or mean), np.asarray(given.std or std)
  if np.array_equal(theirs, (mean, std)):
    return {}
  scale, shift = std / theirs[1], (mean - theirs[0]) / theirs[1]
  return {name: (scale.tolist(), shift.tolist()) for name in method.teachers}


def make_network(
  network: ConfigDict, classes: int, dtype: str, bn_group_size: int = 0
) -> nn.Module:
  """The network of `config.student` or `config.teacher`."""
  args = {
    key: tuple(value) if isinstance(value, list) else value
    for key, value in network.args.to_dict().items()
  }
  if dtype != 'float32':
    args.setdefault('dtype', DTYPES[dtype])
  if bn_group_size:
    args.setdefault('bn_group_size', bn_group_size)
  return models.make(network.name, classes, **args)


def _teachers(
  config: ConfigDict, classes: int, method: base.Method
) -> dict[str, nn.Module]:
  reads = method.teachers
  if reads and not config.teacher.name:
    raise errors.UsageError(
      f'method {config.method} needs a teacher: set config.teacher.name'
    )
  if config.teacher.name and not reads:
    raise errors.UsageError(
      f'method {config.method} has no teacher, but config.teacher.name is '
      f'{config.teacher.name!r}: set it to the empty string'
    )
  if len(reads) > 1:
    raise errors.UsageError(
      f'method {config.method} reads {len(reads)} teachers '
      f'({", ".join(reads)}), and config.teacher is one: several teachers are '
      'not there yet'
    )
  dtype = config.teacher.dtype or config.dtype
  return {
    name: make_network(config.teacher, classes, dtype, config.bn_group_size)
    for name in reads
  }


def _method(config: ConfigDict, facts: Mapping[str, Any]) -> base.Method:
  cls = registry.method_class(config.method)
  known = {
    **facts,
    'dtype': DTYPES[config.dtype],
    'bn_group_size': config.bn_group_size,
  }
  args = {key: known[key] for key in known.keys() & registry.fields(cls)}
  for key, value in config.method_args.to_dict().items():
    args[key] = tuple(value) if isinstance(value, list) else value
  return registry.make(config.method, **args)


def _weights(
  config: ConfigDict, method: base.Method, steps_per_epoch: int, first: int
) -> dict[str, Any]:
  terms = method.terms
  for name in config.weights:
    if name not in terms:
      raise errors.unknown(f'weight of method {config.method}:', name, terms)
  if missing := [name for name in terms if name not in config.weights]:
    raise errors.UsageError(
      f'config.weights lacks {", ".join(missing)} of method {config.method} '
      '(0.0 is off)'
    )

  def counted(spec: Any) -> optim.Schedule:
    found = optim.schedule(_plain(spec), steps_per_epoch, config.epochs)
    return lambda step: found(step - first)

  return {name: counted(spec) for name, spec in config.weights.items()}


def _optimizer(
  config: ConfigDict, steps_per_epoch: int
) -> tuple[optax.GradientTransformation, Callable[[str], bool]]:
  """The optimizer, and whether it trains the parameter of a path."""
  common = config.optimizer.to_dict()
  most = common.pop('clip_norm')
  rules, frozen = [], []
  given = common.pop('rules')
  for expression in (*(rule[0] for rule in given), *config.trainable):
    try:
      re.compile(expression)
    except re.error as error:
      raise errors.UsageError(
        f'config.optimizer.rules or trainable: {expression!r} is no regular '
        f'expression: {error}'
      ) from error
  for expression, changes in (*given, ('.*', {})):
    fields = {**common, **_plain(changes)}
    for key in fields:
      if key not in common:
        raise errors.unknown('field of an optimizer rule:', key, common)
    rate = optim.schedule(
      fields.pop('learning_rate'), steps_per_epoch, config.epochs
    )
    name = fields.pop('name')
    resets = [e * steps_per_epoch for e in fields.pop('reset_momentum_at')]
    fields['reset_momentum_at'] = resets
    rules.append((expression, optim.transformation(name, rate, **fields)))
    frozen.append(name == 'frozen')
  group = optim.grouping([rule[0] for rule in rules], config.trainable)

  def trained(path: str) -> bool:
    number = group(path)
    return number >= 0 and not frozen[number]

  tx = optim.by_path(rules, config.trainable)
  if most:
    tx = optax.chain(optax.clip_by_global_norm(most), tx)
  return tx, trained


def _plain(value: Any) -> Any:
  return value.to_dict() if isinstance(value, ConfigDict) else value
