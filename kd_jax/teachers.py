"""A run's teacher: found, trained on demand, measured, kept with the run."""

from collections.abc import Callable
from typing import Any

from etils import epath
import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from kd_jax import accuracy, build, checkpoint, errors, runs, sharding
from kd_jax import config as config_lib
from kd_jax.data import dataset

Train = Callable[[ConfigDict, runs.Folder, str], dict[str, Any]]


def obtain(
  config: ConfigDict,
  parts: build.Parts,
  folder: runs.Folder,
  test: dataset.EvalSet,
  train: Train,
  say: Callable[[str], None],
) -> tuple[dict[str, Any], dict[str, Any] | None]:
  """The variables of the run's teachers, on the mesh, and their facts.

  A teacher comes from the run's own folder, else from `config.teacher.path`,
  else from the cache, where it is trained first if need be. It is evaluated
  and then copied into the run's folder.

  Args:
    config: of the run.
    parts: of the run.
    folder: of the run.
    test: the test split.
    train: trains a network from a configuration into a folder.
    say: prints a line.

  Returns:
    Variables by teacher name, and what teacher.json holds (None without one).

  Raises:
    UsageError: where `config.teacher.path` holds no fitting network.
    RunError: where its accuracy is below `config.teacher.expected_top1`.
  """
  if not parts.exp.teachers:
    return {}, None
  ((name, network),) = parts.exp.teachers.items()
  size = parts.source.info.image_size
  facts = folder.read('teacher.json')
  if facts is None:
    origin = _origin(config, parts, train)
    variables = load(origin / 'student', network, size, parts.mesh)
    facts = {
      'network': config.teacher.name,
      'from': str(origin),
      **_trained(runs.Folder(origin)),
      **measure(network, variables, test, config.eval_batch_size, parts.mesh),
    }
    _check(config, facts)
    checkpoint.save_only(folder.path / 'teacher', 0, variables)
    folder.write('teacher.json', facts)
  else:
    _check(config, facts)
    variables = load(folder.path / 'teacher', network, size, parts.mesh)
  say(f'teacher {config.teacher.name}: top-1 {facts["top1"]:.2f}% on test')
  return {name: variables}, facts


def _origin(config: ConfigDict, parts: build.Parts, train: Train) -> epath.Path:
  if config.teacher.path:
    given = epath.Path(config.teacher.path).expanduser()
    path = runs.Folder(given).path
    if not (path / 'result.json').exists():
      raise errors.UsageError(
        f'config.teacher.path={config.teacher.path!r} is not the folder of a '
        'finished run (it has no result.json)'
      )
    if not (path / 'student').exists():
      raise errors.UsageError(
        f'config.teacher.path={config.teacher.path!r}: the student of that run '
        'does not stand alone (it predicts through its method), so it cannot '
        'be a teacher'
      )
    return path
  recipe = config_lib.of_teacher(config)
  folder = runs.cache_folder(recipe, parts.source.info, 'teacher')
  train(recipe, folder, 'teacher')
  return folder.path


def _trained(folder: runs.Folder) -> dict[str, Any]:
  """What a finished run's result says of its training."""
  result = folder.read('result.json')
  return {k: result[k] for k in ('best_on_test', 'wall_s') if k in result}


def load(
  path: epath.Path, network: Any, image_size: int, mesh: Mesh
) -> dict[str, Any]:
  """A network's variables, on every device of the mesh.

  Raises:
    UsageError: where there are none, or not those of this network.
  """
  like = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=sharding.replicated(mesh)
    ),
    dict(build.variables_of(network, image_size)),
  )
  checkpoints = checkpoint.Checkpoints(path, read_only=True)
  try:
    return checkpoints.restore(checkpoints.latest(), like)
  finally:
    checkpoints.close()


def measure(
  network: Any,
  variables: dict[str, Any],
  test: dataset.EvalSet,
  batch_size: int,
  mesh: Mesh,
) -> dict[str, float]:
  """A network's accuracy with running batch statistics."""
  if getattr(network, 'batch_norm', 'auto') != 'auto':
    network = network.clone(batch_norm='auto')
  exp = accuracy.alone(network)
  state = {c: v for c, v in variables.items() if c != 'params'}
  found = accuracy.evaluate(
    accuracy.make(exp, test, mesh),
    test,
    batch_size,
    {'student': variables['params'], 'method': {}},
    {'student': state, 'method': {}},
    {},
  )
  return found['student']


def _check(config: ConfigDict, facts: dict[str, Any]) -> None:
  expected = config.teacher.expected_top1
  if facts['top1'] < expected and not config.teacher.allow_below_expected:
    raise errors.RunError(
      f'the teacher from {facts["from"]} has top-1 {facts["top1"]:.2f}%, less '
      f'than config.teacher.expected_top1={expected}; mend it, or set '
      'config.teacher.allow_below_expected=True'
    )
