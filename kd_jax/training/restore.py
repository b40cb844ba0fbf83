"""Whatever was trained and labels images, by its path: a run, or an export."""

from collections.abc import Sequence
import functools
from typing import Any

from etils import epath
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict
import numpy as np

from kd_jax import data, errors, models, pytrees
from kd_jax.data import augment, source
from kd_jax.distill import build, evaluation, inspect, step
from kd_jax.export import artifact
from kd_jax.models.pretrained import convert
from kd_jax.runtime import checkpoint, run_dir, sharding

# What an export tells of a run: of its configuration's data, of its result.
_DATA = ('name', 'train_size', 'val_fraction', 'image_size')
_RESULT = (
  'method', 'seed', 'epochs', 'train_images', 'protocol', 'best_on_test',
  'best_on_val', 'wall_s', 'commit',
)  # fmt: skip


def load(path: epath.PathLike, mesh: Mesh | None = None) -> artifact.Trained:
  """What a finished run deploys, or an export.

  Args:
    path: of the run's or the export's folder.
    mesh: the devices that the weights shall be on; None is the first one.

  Raises:
    UsageError: where the path holds neither, or what it holds is damaged or of
      a newer version.
  """
  mesh = mesh or sharding.make_mesh(1)
  folder = run_dir.Folder(epath.Path(path).expanduser())
  place = folder.path
  if artifact.is_export(place):
    found = artifact.read(place)
    whole = sharding.replicated(mesh)
    return found._replace(weights=sharding.put(found.weights, whole))
  if (place / 'result.json').exists():
    try:
      return _of_run(folder, mesh)
    except checkpoint.Damaged as error:
      raise errors.UsageError(str(error)) from error
  if (place / 'config.json').exists():
    what = 'a run that is not finished (without result.json); start it again'
  elif place.exists():
    what = (
      'neither a finished run (a folder with result.json) nor an export (a '
      f'folder with {artifact.FACTS})'
    )
  else:
    what = 'not there'
  raise errors.UsageError(f'{place} is {what}')


def _of_run(folder: run_dir.Folder, mesh: Mesh) -> artifact.Trained:
  """What a finished run deploys."""
  try:
    stored, result = folder.read('config.json'), folder.read('result.json')
    info = source.Info(**stored.pop('data_facts'))
    config = ConfigDict(stored)
    facts = _facts(config, info, result)
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise errors.UsageError(
      f'{folder.path} is no run that this kd_jax can read: '
      f'{type(error).__name__}: {error}'
    ) from error
  own, taught, forward = _planned(config, info, facts)
  if len(facts['kept']) == 1:
    variables = restore(folder.path / 'student', own['student'], mesh)
    found = {'student': variables}
  else:
    found = restore(folder.path / 'deployed', own, mesh)
  for name, like in taught.items():
    found[name] = restore(folder.path / 'teacher', like, mesh)
  return artifact.Trained(_by_path(found), forward, facts)


def untrained(
  config: ConfigDict, info: source.Info, facts: dict[str, Any]
) -> artifact.Trained:
  """What a run will deploy, with shapes and dtypes in place of its weights.

  Args:
    config: of the run.
    info: of its data set.
    facts: at least 'kept', 'network', 'image_size', 'mean' and 'std'.
  """
  own, taught, forward = _planned(config, info, facts)
  return artifact.Trained(_by_path({**own, **taught}), forward, facts)


def _planned(
  config: ConfigDict, info: source.Info, facts: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], artifact.Forward]:
  """Shapes of what a run trains and of its teachers, and the prediction."""
  size = info.image_size
  if len(facts['kept']) == 1:  # a network that stands alone
    network = build.make_network(
      config.student, len(info.class_names), config.dtype, config.bn_group_size
    )
    own = {'student': dict(inspect.variables_of(network, size))}
    return own, {}, _forward(evaluation.alone(network), 'student', own, facts)
  exp = _experiment(config, info)
  shapes = _all_shapes(exp, size)
  own = {n: shapes[n] for n in facts['kept'] if n not in exp.teachers}
  taught = {n: shapes[n] for n in exp.teachers}
  name = inspect.deployed(exp, size).name
  return own, taught, _forward(exp, name, shapes, facts)


def alone(
  network: nn.Module, variables: dict[str, Any], facts: dict[str, Any]
) -> artifact.Trained:
  """A network that predicts by itself.

  Args:
    network: a Linen module `(images, train) -> logits`.
    variables: its 'params' and other collections.
    facts: what network.json shall say; 'mean' and 'std' normalise.
  """
  own = {'student': variables}
  shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), own)
  forward = _forward(evaluation.alone(network), 'student', shapes, facts)
  return artifact.Trained(_by_path(own), forward, facts)


def of_weights(
  path: str,
  name: str,
  info: source.Info,
  mean: Sequence[float] | None = None,
  std: Sequence[float] | None = None,
) -> artifact.Trained:
  """A network from a file of PyTorch weights.

  Args:
    path: of the file; see `models.weights`.
    name: of the network, as in `config.student.name`.
    info: of the data set whose classes it has.
    mean: of pixels in 0..1, that it was trained with; None is the data set's.
    std: likewise.

  Raises:
    UsageError: where the file cannot be read, or is another network's.
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
  return alone(network, convert.load(network, path), facts)


def _facts(
  config: ConfigDict, info: source.Info, result: dict[str, Any]
) -> dict[str, Any]:
  """What network.json says of a run."""
  images = result['test_images']
  return {
    'network': config.student.name,
    'network_args': config.student.args.to_dict(),
    'dtype': config.dtype,
    'image_size': info.image_size,
    'mean': list(info.mean),
    'std': list(info.std),
    'class_names': list(info.class_names),
    'kept': result['kept'],
    'parameters': result['params'],
    'flops': result['flops'],
    'accuracy': {
      'data': info.name,
      'split': 'test',
      'images': images,
      'correct': round(result['top1'] * images / 100),
      'top1': result['top1'],
      'top5': result['top5'],
    },
    'data': {key: config.data[key] for key in _DATA},
    'result': {key: result[key] for key in _RESULT if key in result},
    'teacher': (result['teacher'] or {}).get('network'),
  }


def _experiment(config: ConfigDict, info: source.Info) -> step.Experiment:
  """Networks and method of a run."""
  # A method may ask for the labels; to predict, only how many matters.
  labels = np.zeros(info.num_train, np.int32)
  facts = {'num_classes': len(info.class_names), 'train_labels': labels}
  return build.experiment(config, facts, 1)


def _all_shapes(exp: step.Experiment, image_size: int) -> dict[str, Any]:
  """Shapes and dtypes of all variables, by network name and 'method'."""
  frozen = {
    name: dict(inspect.variables_of(network, image_size))
    for name, network in exp.teachers.items()
  }
  init = functools.partial(step.init, exp)
  batch = inspect.example(image_size, 2)
  state = jax.eval_shape(init, jnp.int32(0), frozen, batch)
  trained = {
    name: {'params': params, **state.model_state[name]}
    for name, params in state.params.items()
  }
  return {**trained, **frozen}


def _forward(
  exp: step.Experiment,
  name: str,
  shapes: dict[str, Any],
  facts: dict[str, Any],
) -> artifact.Forward:
  """The prediction called `name`, normalisation included.

  Weights that it does not read need not be given.
  """

  def forward(weights, images):
    def weight(path, like):
      unread = jnp.zeros(like.shape, like.dtype)
      return weights.get(pytrees.path_name(path), unread)

    variables = {'method': {}, **jax.tree.map_with_path(weight, shapes)}
    frozen = {n: variables.pop(n) for n in exp.teachers}
    params = {n: v.pop('params', {}) for n, v in variables.items()}
    image = augment.normalise(images, facts['mean'], facts['std'])
    logits = step.predict_step(exp, params, variables, frozen, {'image': image})
    return logits[name]

  return forward


def _by_path(tree: Any) -> dict[str, Any]:
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {pytrees.path_name(path): leaf for path, leaf in leaves}


def restore(path: epath.Path, shapes: Any, mesh: Mesh) -> dict[str, Any]:
  """The variables of a checkpoint folder, on every device of the mesh.

  Args:
    path: of the folder.
    shapes: what it must hold, a tree of shapes and dtypes.
    mesh: the devices.

  Raises:
    UsageError: where there are none, or others.
    RunError: where they are damaged.
  """
  whole = sharding.replicated(mesh)
  like = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), shapes
  )
  checkpoints = checkpoint.Checkpoints(path, read_only=True)
  try:
    return checkpoints.restore(checkpoints.latest(), like)
  finally:
    checkpoints.close()


def variables(
  found: artifact.Trained, network: nn.Module, classes: int, image_size: int
) -> dict[str, Any]:
  """The variables of what was trained, for a network of that kind.

  Args:
    found: what was trained.
    network: ours.
    classes: K of ours.
    image_size: of ours.

  Raises:
    UsageError: where it predicts through a method, has other classes, or is
      another network.
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
  wanted = _by_path(shapes)
  names = sorted({*wanted, *found.weights})
  odd = [n for n in names if _said(wanted, n) != _said(found.weights, n)]
  if odd:
    first = odd[0].removeprefix('student/')
    raise errors.UsageError(
      f'the network there, {facts["network"]} {facts["network_args"]}, '
      f'is another one: {first} is {_said(found.weights, odd[0])} there and '
      f'{_said(wanted, odd[0])} here'
      + (f', and {len(odd) - 1} more differ' if odd[1:] else '')
    )
  leaves = [found.weights[name] for name in wanted]
  return jax.tree.unflatten(jax.tree.structure(shapes), leaves)['student']


def _said(tree: dict[str, Any], name: str) -> str:
  if name not in tree:
    return 'missing'
  return f'{tree[name].dtype}{list(tree[name].shape)}'


def open_data(
  found: artifact.Trained, name: str = '', data_dir: str = ''
) -> source.Source:
  """A data set, at the image size of what was trained.

  Args:
    found: what was trained.
    name: as in `config.data.name`; '' is the data set that it was trained on.
    data_dir: where data sets are prepared; '' is the usual place.

  Raises:
    UsageError: where the data set is not to be had, or has more or less
      classes.
  """
  facts, size = found.facts, found.facts['image_size']
  given = facts['data'] if not name else {}
  name = name or given['name']
  opened = open_named(
    name,
    size,
    data_dir,
    train_size=given.get('train_size', 0),
    val_fraction=given.get('val_fraction', 0.0),
  )
  there, ours = len(opened.info.class_names), len(facts['class_names'])
  if there != ours:
    raise errors.UsageError(
      f'{name} has {there} classes, and the network {ours}: they cannot be '
      'compared'
    )
  return opened


def open_named(
  name: str, image_size: int, data_dir: str = '', **parts: Any
) -> source.Source:
  """A data set by name, every image of it at that size (0: its own).

  Raises:
    UsageError: where it is not to be had.
  """
  if not name:
    raise errors.UsageError('--data is missing: weights do not name their data')
  small = name == 'digits'  # of 8 pixels, scaled later
  opened = data.open_source(
    name, image_size=0 if small else image_size, data_dir=data_dir, **parts
  )
  if not image_size:
    return opened
  info = opened.info._replace(image_size=image_size)
  return source.Source(info, opened.split)
