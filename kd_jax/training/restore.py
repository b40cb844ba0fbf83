"""Anything trained that labels images, by its path: a run or an export."""

from collections.abc import Callable, Iterator, Sequence
import contextlib
from typing import Any

from etils import epath
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict
import numpy as np

from kd_jax import errors, models, pytrees, tasks
from kd_jax.config import roles
from kd_jax.data import augment, source
from kd_jax.distill import build, evaluation, inspect, step
from kd_jax.export import artifact
from kd_jax.models.pretrained import convert
from kd_jax.runtime import checkpoint, run_dir, sharding, stored
from kd_jax.training import facts as facts_lib
from kd_jax.training import imports


def load(
  path: epath.PathLike,
  mesh: Mesh | None = None,
  allow_imports: imports.Allowed = False,
  ema: bool = False,
  dtype: str = '',
) -> artifact.Trained:
  """Loads the deployed network of a finished run, or an export.

  Args:
    path: The folder of the run or of the export.
    mesh: The devices that the weights are put on; None is the first device.
    allow_imports: Whether the networks and the method that the run names by
      import paths may be imported, or which of them; see `imports`.
    ema: Whether to load the averaged parameters of a run.
    dtype: What the network of a run computes in, 'float32' or 'bfloat16'; ''
      is what the run computed in. That of an export is fixed.

  Raises:
    UsageError: The path holds neither of them, or no average, its content is
      damaged or has a newer version, a weight is no finite number, or code
      would be imported that is not allowed.
    RunError: A checkpoint cannot be read now.
  """
  mesh = mesh or sharding.make_mesh(1)
  folder = run_dir.Folder(epath.Path(path).expanduser())
  place = folder.path
  if artifact.is_export(place):
    if ema:
      raise errors.ArgumentError(
        f'ema=True: {place} is an export, which holds one set of parameters; '
        'give the run'
      )
    export = artifact.read(place)
    replicated = sharding.replicated(mesh)
    artifact.check_finite(export.weights, str(place))
    return export._replace(weights=sharding.put(export.weights, replicated))
  if (place / 'result.json').exists():
    try:
      trained = _of_run(folder, mesh, allow_imports, ema, dtype)
    except checkpoint.Damaged as error:
      raise errors.UsageError(str(error)) from error
    artifact.check_finite(trained.weights, str(place))
    return trained
  if (place / 'config.json').exists():
    state = (
      'a run that is not finished (without result.json): the end of its '
      'log.txt says why; the same command goes on'
    )
  elif place.exists():
    state = (
      'neither a finished run (a folder with result.json) nor an export (a '
      f'folder with {artifact.FACTS})'
    )
  else:
    state = 'not there'
  raise errors.UsageError(f'{place} is {state}')


def _of_run(
  folder: run_dir.Folder,
  mesh: Mesh,
  allow_imports: imports.Allowed,
  ema: bool,
  dtype: str,
) -> artifact.Trained:
  """Loads the deployed prediction of a finished run; see `load`."""
  config, info, facts = facts_lib.read(folder, ema=ema)
  suffix = '_ema' if ema else ''
  if dtype:
    config.dtype = config.teacher.dtype = facts['dtype'] = dtype
    for teacher in roles.named(config, 'teacher').values():
      teacher.dtype = dtype
  names = {'student.name': facts['network']}
  if len(facts['kept']) > 1:  # it predicts with the method and all networks
    names['method'] = config.method
    for role in ('student', 'teacher'):
      others = roles.named(config, role).items()
      names |= {f'{role}s.{name}.name': group.name for name, group in others}
      names[f'{role}.name'] = config[role].name
  imports.check(names, allow_imports, str(folder.path))
  with _planning(folder):
    trained_shapes, teacher_shapes, forward = _planned(config, info, facts)
  if len(facts['kept']) == 1:
    variables = restore(
      folder.path / f'student{suffix}', trained_shapes['student'], mesh
    )
    tree = {'student': variables}
  else:
    tree = restore(folder.path / f'deployed{suffix}', trained_shapes, mesh)
  for name, shapes in teacher_shapes.items():
    place = folder.path / run_dir.of_teacher(name)
    tree[name] = restore(place, shapes, mesh)
  return artifact.Trained(_by_path(tree), forward, facts)


@contextlib.contextmanager
def _planning(folder: run_dir.Folder) -> Iterator[None]:
  """Raises UsageError where what a run names cannot be made.

  Its fields are those of networks and methods, which may be anybody's.
  """
  place = folder.path / 'config.json'
  try:
    yield
  except errors.UsageError as error:
    raise errors.UsageError(f'{place}: {error}') from error
  except (AttributeError, KeyError, OverflowError, TypeError) as error:
    why = str(error).strip().partition('\n')[0]
    raise errors.UsageError(
      f'{place} describes what cannot be made: {type(error).__name__}: {why}; '
      'copy the run again, or train it again'
    ) from error


def teacher(
  path: epath.PathLike,
  mesh: Mesh | None = None,
  allow_imports: imports.Allowed = False,
  name: str = '',
) -> artifact.Trained | None:
  """Returns a teacher of a finished run, which predicts by itself.

  It has its own normalisation, and normalises by running statistics even where
  the run let it use those of the batch.

  Args:
    path: The folder of the run.
    mesh: The devices that the weights are put on; None is the first device.
    allow_imports: Whether a teacher that the run names by an import path may
      be imported; see `imports`.
    name: The teacher's name; '' takes the first of a run with several.

  Returns:
    The teacher; None if the run has none.

  Raises:
    UsageError: The run's files are damaged, or of another version, or code
      would be imported that is not allowed.
  """
  folder = run_dir.Folder(epath.Path(path).expanduser())
  config, info, facts = facts_lib.read(folder)
  name = name or next(iter(facts.get('teachers', {})), run_dir.TEACHER)
  key = roles.key(config, 'teacher', name).removeprefix('config.')
  config = roles.with_teacher(config, name)
  if not config.teacher.name:
    return None
  code = {f'{key}.name': config.teacher.name}
  imports.check(code, allow_imports, str(folder.path))
  dtype = config.teacher.dtype or config.dtype
  args = {k: v for k, v in config.teacher.args.items() if k != 'batch_norm'}
  described = ConfigDict({'name': config.teacher.name, 'args': args})
  # A run of an older version has no such key.
  size = config.teacher.get('image_size', 0) or info.image_size
  with _planning(folder):
    network = build.make_network(described, len(info.class_names), dtype)
    variables = dict(inspect.variables_of(network, size))
  if jax.tree.leaves(variables):  # a function has none
    place = folder.path / run_dir.of_teacher(name)
    mesh = mesh or sharding.make_mesh(1)
    try:
      variables = restore(place, variables, mesh)
    except checkpoint.Damaged as error:
      raise errors.UsageError(str(error)) from error
  own = {key: facts[key] for key in ('class_names', 'data')} | {
    'image_size': size,
    'network': config.teacher.name,
    'network_args': described.args.to_dict(),
    'dtype': dtype,
    'mean': list(config.teacher.mean or info.mean),
    'std': list(config.teacher.std or info.std),
    'kept': ['student'],
  }
  return alone(network, variables, own)


def untrained(
  config: ConfigDict, info: source.Info, facts: dict[str, Any]
) -> artifact.Trained:
  """Returns what a run will deploy, with shapes and dtypes as its weights.

  Args:
    config: The configuration of the run.
    info: The facts of its data set.
    facts: At least 'kept', 'network', 'image_size', 'mean' and 'std'.
  """
  trained_shapes, teacher_shapes, forward = _planned(config, info, facts)
  return artifact.Trained(
    _by_path({**trained_shapes, **teacher_shapes}), forward, facts
  )


def _planned(
  config: ConfigDict, info: source.Info, facts: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], artifact.Forward]:
  """Returns the shapes of a prediction's variables, and the prediction.

  The shapes are those of the trained groups and those of the teachers.
  """
  size = info.image_size
  if len(facts['kept']) == 1:  # a network that predicts by itself
    student = roles.student(config, roles.deployed(config, facts['kept']))
    network = build.make_network(
      student, len(info.class_names), config.dtype, config.bn_group_size
    )
    trained_shapes = {'student': dict(inspect.variables_of(network, size))}
    return (
      trained_shapes,
      {},
      _forward(evaluation.alone(network), 'student', trained_shapes, facts),
    )
  exp = _experiment(config, info)
  frozen = inspect.frozen(exp, size)
  state = inspect.first_state(exp, size)
  shapes = {
    name: {'params': params, **state.model_state[name]}
    for name, params in state.params.items()
  } | frozen
  trained_shapes = {
    group: shapes[group] for group in facts['kept'] if group not in exp.teachers
  }
  teacher_shapes = {group: shapes[group] for group in exp.teachers}
  name = inspect.deployed(exp, state, frozen, size).name
  return trained_shapes, teacher_shapes, _forward(exp, name, shapes, facts)


def alone(
  network: nn.Module, variables: dict[str, Any], facts: dict[str, Any]
) -> artifact.Trained:
  """Returns a network that predicts by itself.

  Args:
    network: A Linen module `(images, train) -> logits`.
    variables: Its 'params' and other collections.
    facts: The content of network.json; 'mean' and 'std' normalise the images.
  """
  tree = {'student': variables}
  shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
  forward = _forward(evaluation.alone(network), 'student', shapes, facts)
  return artifact.Trained(_by_path(tree), forward, facts)


def of_weights(
  path: str,
  name: str,
  info: source.Info,
  mean: Sequence[float] | None = None,
  std: Sequence[float] | None = None,
  key: str = '',
  say: Callable[[str], None] | None = None,
) -> artifact.Trained:
  """Returns a network with the weights of a PyTorch file.

  Args:
    path: The file; see `models.pretrained.convert`.
    name: The name of the network, as in `config.student.name`.
    info: The facts of the data set that has the network's classes.
    mean: The mean of each channel, of pixels in 0..1, that the network was
      trained with; None is the data set's.
    std: The standard deviation of each channel, of pixels in 0..1, that the
      network was trained with; None is the data set's.
    key: Where the weights stand in the file; see `models.pretrained.convert`.
    say: A function that prints what of the file was taken and what was left.

  Raises:
    UsageError: The file cannot be read, or is that of another network.
  """
  network = models.make(name, len(info.class_names))
  facts = {
    'network': name,
    'network_args': {},
    'image_size': info.image_size,
    'mean': list(mean or info.mean),
    'std': list(std or info.std),
    'class_names': list(info.class_names),
    'kept': ['student'],
  }
  return alone(network, convert.load(network, path, key, say), facts)


def _experiment(config: ConfigDict, info: source.Info) -> step.Experiment:
  """Returns the networks and the method of a run."""
  # A method may ask for the labels. To predict, only their number matters.
  labels = np.zeros(info.num_train, np.int32)
  facts = {
    'num_classes': len(info.class_names),
    'train_labels': labels,
    'task': tasks.find(info.task),
    'mean': info.mean,
    'std': info.std,
  }
  return build.experiment(config, facts, 1)


def _forward(
  exp: step.Experiment,
  name: str,
  shapes: dict[str, Any],
  facts: dict[str, Any],
) -> artifact.Forward:
  """Returns the function that normalises images and predicts their logits.

  Its weights may lack those that the prediction does not read.

  Args:
    exp: The experiment.
    name: The name of the prediction.
    shapes: Shapes and dtypes of the variables.
    facts: The facts with 'mean' and 'std'.
  """

  def forward(weights, images):
    def weight(path, like):
      unread = jnp.zeros(like.shape, like.dtype)
      return weights.get(pytrees.path_name(path), unread)

    variables = {'method': {}, **jax.tree.map_with_path(weight, shapes)}
    frozen = {n: variables.pop(n) for n in exp.teachers}
    params = {n: v.pop('params', {}) for n, v in variables.items()}
    image = augment.normalise(images, facts['mean'], facts['std'])
    found = step.predict_step(exp, params, variables, frozen, {'image': image})
    return jax.tree.map(lambda x: x.astype(jnp.float32), found[name])

  return forward


def _by_path(tree: Any) -> dict[str, Any]:
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {pytrees.path_name(path): leaf for path, leaf in leaves}


def restore(path: epath.Path, shapes: Any, mesh: Mesh) -> dict[str, Any]:
  """Restores the variables of a checkpoint folder to every device of a mesh.

  Args:
    path: The folder.
    shapes: The expected content, as a tree of shapes and dtypes.
    mesh: The devices.

  Raises:
    UsageError: The folder has no checkpoint, or one with other content.
    RunError: The checkpoint is damaged, or cannot be read now.
  """
  stored.check_regular(path)
  replicated = sharding.replicated(mesh)
  like = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated),
    shapes,
  )
  checkpoints = checkpoint.Checkpoints(path, read_only=True)
  try:
    return checkpoints.restore(checkpoints.latest(), like)
  finally:
    checkpoints.close()


def variables(
  found: artifact.Trained, network: nn.Module, classes: int, image_size: int
) -> dict[str, Any]:
  """Returns the variables of a trained network, for a network of the same kind.

  Args:
    found: The trained network.
    network: The network that the variables are for.
    classes: Its number of classes, K.
    image_size: The height and width of its images, in pixels.

  Raises:
    UsageError: The trained network predicts through a method, has other
      classes, or is another network.
  """
  facts = found.facts
  if len(facts['kept']) > 1:
    raise errors.UsageError(
      'what was trained there does not stand alone (it predicts with '
      f'{", ".join(facts["kept"])}), so it cannot be a teacher'
    )
  if len(facts['class_names']) != classes:
    raise errors.UsageError(
      f'the network there has {len(facts["class_names"])} classes, and '
      f'the data set {classes}'
    )
  shapes = {'student': dict(inspect.variables_of(network, image_size))}
  expected = _by_path(shapes)
  names = sorted({*expected, *found.weights})
  different = [
    path
    for path in names
    if _said(expected, path) != _said(found.weights, path)
  ]
  if different:
    first = different[0].removeprefix('student/')
    raise errors.UsageError(
      f'the network there, {facts["network"]} {facts["network_args"]}, '
      f'is another one: {first} is {_said(found.weights, different[0])} there '
      f'and {_said(expected, different[0])} here'
      + (f', and {len(different) - 1} more differ' if different[1:] else '')
    )
  leaves = [found.weights[name] for name in expected]
  return jax.tree.unflatten(jax.tree.structure(shapes), leaves)['student']


def _said(tree: dict[str, Any], name: str) -> str:
  if name not in tree:
    return 'missing'
  return f'{tree[name].dtype}{list(tree[name].shape)}'
