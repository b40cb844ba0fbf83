"""From a configuration to everything static, checked before data is read."""

from collections.abc import Mapping
import functools
import re
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict
import optax

from kd_jax import data, errors, models, optim, sharding, step
from kd_jax.data import source
from kd_jax.features import NetFeatures
from kd_jax.methods import base

DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}
CHOICES = {
  'dtype': tuple(DTYPES),
  'baseline': ('train', 'cache', 'off'),
  'data.padding_mode': ('zero', 'reflect'),
  'data.augment': ('crop_flip', 'random_resized_crop'),
}


class Parts(NamedTuple):
  """What a run is made of.

  Attributes:
    source: the data set; its images are not read yet.
    mesh: the devices.
    exp: networks, method, weights and optimizer.
    features: shapes and dtypes of every tap of every network.
    deployed: the name of the prediction that the run is about.
    steps_per_epoch: floor(images / batch).
    total_steps: steps of the whole run.
  """

  source: source.Source
  mesh: Mesh
  exp: step.Experiment
  features: NetFeatures
  deployed: str
  steps_per_epoch: int
  total_steps: int


def build(config: ConfigDict) -> Parts:
  """Builds and checks all parts of a run.

  Raises:
    UsageError: for whatever does not exist or does not fit together.
  """
  _check_values(config)
  mesh = sharding.make_mesh(config.mesh.data)
  for key in ('batch_size', 'eval_batch_size'):
    sharding.check_batch(mesh, config[key], f'config.{key}')
  known = data.facts(config.data.name, config.data.image_size)
  if known:  # what does not fit is said before data is fetched
    check(config, *known)
  opened = open_source(config)
  info = opened.info
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
  exp = experiment(config, len(info.class_names), steps_per_epoch)
  features, names = shapes(exp, info.image_size, config.batch_size)
  return Parts(
    source=opened,
    mesh=mesh,
    exp=exp,
    features=features,
    deployed=names[0],
    steps_per_epoch=steps_per_epoch,
    total_steps=config.epochs * steps_per_epoch,
  )


def check(config: ConfigDict, classes: int, image_size: int) -> None:
  """Checks what can be checked without the data set.

  Raises:
    UsageError: for whatever does not exist or does not fit together.
  """
  shapes(experiment(config, classes, 1), image_size, config.batch_size)


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


def experiment(
  config: ConfigDict, classes: int, steps_per_epoch: int
) -> step.Experiment:
  """Networks, method, weights and optimizer of a run."""
  return step.Experiment(
    students={'student': make_network(config.student, classes, config.dtype)},
    teachers=_teachers(config, classes),
    method=_method(config, classes),
    weights=_weights(config, steps_per_epoch),
    tx=_optimizer(config, steps_per_epoch),
  )


def _check_values(config: ConfigDict) -> None:
  if config.epochs < 1 or min(config.eval_every, config.checkpoint_every) <= 0:
    raise errors.UsageError(
      f'config.epochs={config.epochs}, eval_every={config.eval_every} and '
      f'checkpoint_every={config.checkpoint_every} must be positive'
    )
  for path, allowed in CHOICES.items():
    *groups, last = path.split('.')
    value = functools.reduce(getattr, groups, config)[last]
    if value not in allowed:
      raise errors.unknown(f'value of config.{path}:', value, allowed)
  given = config.data
  if given.workers < 0 or config.steps_per_dispatch < 0:
    raise errors.UsageError(
      f'config.data.workers={given.workers} and config.steps_per_dispatch='
      f'{config.steps_per_dispatch} must not be negative'
    )
  area = tuple(given.area)
  if len(area) != 2 or not 0 < area[0] <= area[1] <= 1:
    raise errors.UsageError(
      f'config.data.area={area}: give the least and the greatest fraction of '
      'the area, such as (0.08, 1.0)'
    )
  if not 0 <= config.seed < 2**31:
    raise errors.UsageError(f'config.seed={config.seed}: give 0 to 2^31 - 1')


def make_network(network: ConfigDict, classes: int, dtype: str) -> nn.Module:
  """The network of `config.student` or `config.teacher`."""
  args = {
    key: tuple(value) if isinstance(value, list) else value
    for key, value in network.args.to_dict().items()
  }
  if dtype != 'float32':
    args.setdefault('dtype', DTYPES[dtype])
  return models.make(network.name, classes, **args)


def _teachers(config: ConfigDict, classes: int) -> dict[str, nn.Module]:
  reads = base.method_class(config.method).teachers
  if reads and not config.teacher.name:
    raise errors.UsageError(
      f'method {config.method} needs a teacher: set config.teacher.name'
    )
  if config.teacher.name and not reads:
    raise errors.UsageError(
      f'method {config.method} has no teacher, but config.teacher.name is '
      f'{config.teacher.name!r}: set it to the empty string'
    )
  return {
    name: make_network(config.teacher, classes, config.dtype) for name in reads
  }


def _method(config: ConfigDict, classes: int) -> base.Method:
  cls = base.method_class(config.method)
  facts = {'num_classes': classes, 'dtype': DTYPES[config.dtype]}
  args = {key: facts[key] for key in facts.keys() & base.fields(cls)}
  for key, value in config.method_args.to_dict().items():
    args[key] = tuple(value) if isinstance(value, list) else value
  return base.make(config.method, **args)


def _weights(config: ConfigDict, steps_per_epoch: int) -> dict[str, Any]:
  terms = base.method_class(config.method).terms
  for name in config.weights:
    if name not in terms:
      raise errors.unknown(f'weight of method {config.method}:', name, terms)
  if missing := [name for name in terms if name not in config.weights]:
    raise errors.UsageError(
      f'config.weights lacks {", ".join(missing)} of method {config.method} '
      '(0.0 is off)'
    )
  return {
    name: optim.schedule(_plain(spec), steps_per_epoch, config.epochs)
    for name, spec in config.weights.items()
  }


def _optimizer(
  config: ConfigDict, steps_per_epoch: int
) -> optax.GradientTransformation:
  common = config.optimizer.to_dict()
  rules = []
  for expression, changes in (*common.pop('rules'), ('.*', {})):
    fields = {**common, **_plain(changes)}
    for key in fields:
      if key not in common:
        raise errors.unknown('field of an optimizer rule:', key, common)
    try:
      re.compile(expression)
    except re.error as error:
      raise errors.UsageError(
        f'config.optimizer.rules: {expression!r} is no regular expression: '
        f'{error}'
      ) from error
    rate = optim.schedule(
      fields.pop('learning_rate'), steps_per_epoch, config.epochs
    )
    name = fields.pop('name')
    resets = [e * steps_per_epoch for e in fields.pop('reset_momentum_at')]
    fields['reset_momentum_at'] = resets
    rules.append((expression, optim.transformation(name, rate, **fields)))
  return optim.by_path(rules)


def _plain(value: Any) -> Any:
  return value.to_dict() if isinstance(value, ConfigDict) else value


def example(image_size: int, batch_size: int) -> dict[str, Any]:
  """A `Batch` of shapes in place of arrays."""
  image = (batch_size, image_size, image_size, 3)
  return {
    'image': jax.ShapeDtypeStruct(image, jnp.float32),
    'label': jax.ShapeDtypeStruct((batch_size,), jnp.int32),
    'index': jax.ShapeDtypeStruct((batch_size,), jnp.int32),
  }


def variables_of(network: nn.Module, image_size: int) -> Mapping[str, Any]:
  """Shapes and dtypes of a network's variables, taps left out."""

  def init(image):
    made = dict(network.init(jax.random.key(0), image, train=True))
    made.pop('intermediates', None)
    return made

  return jax.eval_shape(init, example(image_size, 2)['image'])


def shapes(
  exp: step.Experiment, image_size: int, batch_size: int
) -> tuple[NetFeatures, list[str]]:
  """Shapes of all features and the names that the method predicts.

  One training step is traced too, so that what does not fit shows here.

  Raises:
    UsageError: from the method, for a tap that is not there or does not fit.
  """
  batch = example(image_size, batch_size)
  frozen = {
    name: variables_of(network, image_size)
    for name, network in exp.teachers.items()
  }
  names: list[str] = []

  def trace(frozen, batch):
    seed = jnp.zeros((), jnp.int32)
    state = step.init(exp, seed, frozen, batch)
    step.train_step(exp, seed, state, frozen, batch)
    networks = (state.params, state.model_state, frozen, batch)
    names.extend(step.predict_step(exp, *networks))
    return step.features_of(exp, *networks)

  return jax.eval_shape(trace, frozen, batch), names
