"""The programs that a run of a configuration compiles, by name."""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import functools
from typing import Any, NamedTuple

import jax
from jax import export
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict
import numpy as np

from kd_jax import errors, features
from kd_jax.benchmark import case
from kd_jax.config import roles
from kd_jax.data import dataset, source
from kd_jax.distill import build, evaluation, inspect, jitted, step
from kd_jax.distill import parts as parts_lib
from kd_jax.export import artifact
from kd_jax.runtime import checkpoint, distributed, sharding
from kd_jax.training import restore, splits, teacher

_LABELLED = 256  # images of a batch of `kd-jax evaluate` and of predict.py

# A function that traces, lowers and compiles a program.
Make = Callable[[], Any]


class _Run(NamedTuple):
  """The parts of a run that its programs are made from.

  Attributes:
    config: The configuration of the run.
    parts: The parts of the run, with random images on this machine's device.
    mesh: The chips.
    seed: The shape and dtype of the seed.
    taught: The shapes of the teachers' variables, by name.
    frozen: The shapes of these variables after folding.
    state: The shapes of the first state.
  """

  config: ConfigDict
  parts: build.Parts
  mesh: Mesh
  seed: jax.ShapeDtypeStruct
  taught: dict[str, Any]
  frozen: dict[str, Any]
  state: step.TrainState


def programs(
  config: ConfigDict, wanted: case.Wanted, mesh: Mesh
) -> dict[str, Make]:
  """Returns a function for each program of a run that compiles it, by name.

  Args:
    config: The configuration of the run, as `case.configured` returns it.
    wanted: The sizes of the data set and of a batch.
    mesh: The chips, which need not be there.

  Raises:
    UsageError: A part of the run does not exist or does not fit.
  """
  run = _run(config, _parts(config, wanted), mesh)
  groups = (_starting, _training, _evaluating, _exporting)
  return {name: make for group in groups for name, make in group(run)}


def _parts(config: ConfigDict, wanted: case.Wanted) -> build.Parts:
  """Returns the parts of a run on random images."""
  size, count = wanted.image_size, wanted.images
  names = tuple(str(number) for number in range(wanted.classes))
  info = source.Info('random', names, size, count, count, case.MEAN, case.STD)
  labels = np.arange(count, dtype=np.int32) % wanted.classes
  shape = (count, size, size, 3)
  image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
  steps = count // wanted.batch_size
  if not steps:
    raise errors.UsageError(
      f'--images={count} is less than a batch of {wanted.batch_size}'
    )
  facts = {'num_classes': wanted.classes, 'train_labels': labels}
  facts |= {'mean': info.mean, 'std': info.std}
  phases = build.phases_of(config, facts, steps)
  with errors.keys('config.method_args.'):
    traced = tuple(
      inspect.trace(phase.exp, size, config.batch_size) for phase in phases
    )
  return build.Parts(
    source=source.Source(info, lambda split: source.Arrays(image, labels)),
    mesh=sharding.make_mesh(1),
    phases=phases,
    traced=traced,
    steps_per_epoch=steps,
  )


def _run(config: ConfigDict, parts: build.Parts, mesh: Mesh) -> _Run:
  exp, size = parts.phases[0].exp, parts.source.info.image_size
  batch = inspect.example(size, config.batch_size)
  taught = inspect.frozen(exp, size)
  fold = functools.partial(step.fold, exp)
  frozen = jax.eval_shape(fold, taught, batch['image'])
  seed = jax.ShapeDtypeStruct((), jnp.int32)
  shapes = _on(mesh, (taught, frozen, parts.state(0)))
  return _Run(config, parts, mesh, seed, *shapes)


def _on(mesh: Mesh, tree: Any) -> Any:
  """Returns shapes and dtypes of arrays that are on every chip of a mesh."""
  whole = sharding.replicated(mesh)
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), tree
  )


def _compiled(function: Any, *args: Any) -> Make:
  return lambda: function.lower(*args).compile()


def _starting(run: _Run) -> Iterator[tuple[str, Make]]:
  """Yields the programs before the first step, of saving and of stopping."""
  parts, mesh, size = run.parts, run.mesh, run.parts.source.info.image_size
  if run.taught:
    fold = jitted.fold(parts.exp, size, mesh)
    yield 'teacher folding', _compiled(fold, run.taught)
  batch = inspect.example(size, run.config.batch_size)
  init = jitted.init(parts.phases[0].exp, mesh)
  yield 'first state', _compiled(init, run.seed, run.frozen, batch)
  yield 'finite check', _compiled(jitted.all_finite(mesh), run.state)
  # A run compiles one program for each shape; here one program has them all.
  arrays = {(x.shape, x.dtype): x for x in jax.tree.leaves(run.state)}
  digests = jax.jit(lambda xs: [checkpoint.digest_of(x) for x in xs])
  yield 'checkpoint digests', _compiled(digests, list(arrays.values()))
  all_devices = Mesh(mesh.devices.ravel(), ('all',))
  asked = jax.ShapeDtypeStruct(
    all_devices.devices.shape,
    jnp.bool_,
    sharding=NamedSharding(all_devices, PartitionSpec('all')),
  )
  yield 'stop poll', _compiled(distributed.any_of(all_devices), asked)


def _training(run: _Run) -> Iterator[tuple[str, Make]]:
  """Yields the dispatches of each phase, and the program that begins it."""
  config, parts = run.config, run.parts
  train = splits.training(config, parts, print)
  for phase in parts.phases:
    label, phase_run = f'{phase.name}: ' if phase.name else '', run
    if phase.first:
      params = run.state.params
      restart = jitted.optimizer_init(phase.exp, run.mesh)
      yield f'{label}optimizer', _compiled(restart, params)
      opt_state = _on(run.mesh, jax.eval_shape(phase.exp.tx.init, params))
      state = dataclasses.replace(run.state, opt_state=opt_state)
      phase_run = run._replace(state=state)
    for steps in (1, _steps(run, train).steps):
      yield (
        f'{label}steps: {steps}',
        _dispatch(phase_run, phase.exp, train, steps),
      )
    for augment in ('crop_flip', 'random_resized_crop'):
      streamed = splits.training(_streamed(config, augment), parts, print)
      steps = _steps(run, streamed).steps
      name = f'{label}streamed steps, {augment}: {steps}'
      yield name, _dispatch(phase_run, phase.exp, streamed, steps)
  if _reads_logits_alone(config, parts):
    yield from _known(run)


def _streamed(config: ConfigDict, augment: str = 'crop_flip') -> ConfigDict:
  """Returns the configuration with images that do not fit on the device."""
  streamed = config.copy_and_resolve_references()
  streamed.data.device_mb, streamed.data.workers = 0, 0
  streamed.data.augment = augment
  return streamed


def _steps(run: _Run, train: dataset.TrainSet) -> parts_lib.Dispatch:
  parts = run.parts
  return build.dispatch(
    run.config,
    parts.exp,
    lambda: parts.traced[-1],
    run.mesh,
    parts.source.info.image_size,
    parts.steps_per_epoch,
    streams=not train.arrays,
  )


def _dispatch(
  run: _Run, exp: step.Experiment, train: Any, steps: int, known: Any = None
) -> Make:
  """Returns a function that compiles a dispatch of `steps` steps."""
  with contextlib.closing(train.feeds(0)) as feeds:
    feed = next(feeds)
  stacked = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((steps, *x.shape), x.dtype), feed
  )
  arrays = {**_on(run.mesh, train.arrays), **(known or {})}
  ahead = 1 if known else _steps(run, train).ahead
  return _compiled(
    jitted.train_steps(exp, train.batch, run.mesh, ahead),
    *(run.seed, run.state, run.frozen, arrays, stacked),
  )


def _reads_logits_alone(config: ConfigDict, parts: build.Parts) -> bool:
  """Returns whether the method works with cached logits of its teachers.

  See `config.teacher.cache_logits`.
  """
  if not parts.exp.teachers:
    return False
  size = parts.source.info.image_size
  modes = [
    roles.with_teacher(config, name).teacher.args.get('batch_norm', 'auto')
    for name in parts.exp.teachers
  ]
  try:
    inspect.trace(parts.exp, size, config.batch_size, cached=True)
  except errors.UsageError:
    return False
  return 'batch' not in modes


def _known(run: _Run) -> Iterator[tuple[str, Make]]:
  """Yields the teachers' logits of a batch, and steps that read them."""
  config = run.config.copy_and_resolve_references()
  config.data.augment, config.data.crop_padding = 'crop_flip', 0
  parts, mesh = run.parts, run.mesh
  train: Any = splits.training(config, parts, print)
  feed = next(train.eval_feeds(config.eval_batch_size))
  logits = jitted.known_logits(parts.exp, train, mesh)
  arrays = _on(mesh, train.arrays)
  yield 'known logits', _compiled(logits, run.frozen, arrays, feed)
  views = len(train.views(jnp.zeros((1, 1, 1, 3))))
  shape = (train.size, views, len(parts.source.info.class_names))
  like = jax.ShapeDtypeStruct(shape, jnp.float32)
  known = _on(mesh, {features.known(name): like for name in run.taught})
  steps = _steps(run, train).steps
  dispatch = _dispatch(run, parts.exp, train, steps, known)
  yield f'steps, known logits: {steps}', dispatch


def _evaluating(run: _Run) -> Iterator[tuple[str, Make]]:
  """Yields the evaluation of the run's networks, and of its teachers."""
  parts, state = run.parts, run.state
  arguments = (state.params, state.model_state, run.frozen)
  for label, config in (('', run.config), ('streamed ', _streamed(run.config))):
    test = splits.split(config, parts, print, 'test')
    with contextlib.closing(test.eval_feeds(config.eval_batch_size)) as feeds:
      feed = next(feeds)
    arrays = _on(run.mesh, test.arrays)
    counted = evaluation.counted(parts.exp, test, run.mesh)
    yield f'{label}evaluation', _compiled(counted, *arguments, arrays, feed)
    for name, network in parts.exp.teachers.items():
      seen, size = parts.exp.inputs.get(name), parts.exp.sizes.get(name, 0)
      exp = teacher.measured(network, seen, size)
      variables = dict(run.taught[name])
      params = {'student': variables.pop('params'), 'method': {}}
      others = {'student': variables, 'method': {}}
      counted = evaluation.counted(exp, test, run.mesh)
      yield (
        f'{label}teacher evaluation',
        _compiled(counted, params, others, {}, arrays, feed),
      )


def _exporting(run: _Run) -> Iterator[tuple[str, Make]]:
  """Yields the programs that label images on one chip."""
  info, deployed = run.parts.source.info, run.parts.deployed
  student = roles.deployed(run.config, deployed.groups)
  facts = {
    'network': roles.student(run.config, student).name,
    'image_size': info.image_size,
    'mean': info.mean,
    'std': info.std,
    'kept': list(deployed.groups),
  }
  trained = restore.untrained(run.config, info, facts)
  first = Mesh(run.mesh.devices.ravel()[:1], ('data',))
  shape = (_LABELLED, info.image_size, info.image_size, 3)
  images = jax.ShapeDtypeStruct(shape, jnp.uint8)
  batch = {
    'image': images,
    'label': jax.ShapeDtypeStruct((_LABELLED,), jnp.int32),
    'mask': jax.ShapeDtypeStruct((_LABELLED,), jnp.float32),
  }
  weights = _on(first, trained.weights)
  counted = artifact.counted(trained.forward, run.parts.task)
  yield 'evaluate', _compiled(counted, weights, batch)
  probabilities = artifact.probabilities(trained.forward)
  yield 'predict', _compiled(probabilities, weights, images)
  yield 'export', functools.partial(_exported, trained, first, images)


def _exported(
  found: artifact.Trained, first: Mesh, images: jax.ShapeDtypeStruct
) -> Any:
  """Compiles the forward pass of an export as its predict.py does."""
  weights, exported = artifact.program(found)
  program = export.deserialize(bytearray(exported.serialize()))
  return jax.jit(program.call).lower(_on(first, weights), images).compile()
