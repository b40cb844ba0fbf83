"""A run's teacher: found, trained on demand, measured, kept with the run."""

from collections.abc import Callable
import hashlib
from typing import Any

from etils import epath
import flax.linen as nn
import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict
import numpy as np

from kd_jax import (
  abstract,
  accuracy,
  build,
  checkpoint,
  errors,
  models,
  processes,
  runs,
  sharding,
  trained,
)
from kd_jax import config as config_lib
from kd_jax.data import dataset, source
from kd_jax.models import weights

# What ends the name of a file of PyTorch weights.
_WEIGHTS = ('.safetensors', '.pth', '.pt', '.tar', '.bin')

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

  A function is one as it is. Another comes from the run's own folder, else
  from `config.teacher.path`, else from the cache, where it is trained first if
  need be. It is evaluated and then copied into the run's folder.

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
  facts = folder.read('teacher.json')
  if facts is None:
    variables, known = _found(config, parts, network, train)
    seen, size = parts.exp.inputs.get(name), config.eval_batch_size
    measured = measure(network, variables, test, size, parts.mesh, seen)
    facts = {'network': config.teacher.name, **known, **measured}
    _check(config, facts)
    if jax.tree.leaves(variables):
      folder.guard()  # its training may have taken long
      checkpoint.save_only(folder.path / 'teacher', 0, variables)
    folder.write('teacher.json', facts)
  else:
    _check(config, facts)
    variables = dict(
      abstract.variables_of(network, parts.source.info.image_size)
    )
    if jax.tree.leaves(variables):
      place = folder.path / 'teacher'
      variables = trained.restore(place, variables, parts.mesh)
  say(f'teacher {config.teacher.name}: top-1 {facts["top1"]:.2f}% on test')
  return {name: variables}, facts


def _found(
  config: ConfigDict, parts: build.Parts, network: nn.Module, train: Train
) -> tuple[dict[str, Any], dict[str, Any]]:
  """The variables from wherever they are, and what is known of them."""
  if isinstance(network, models.Function):
    return {'params': {}}, {'from': config.teacher.name}
  origin = config.teacher.path
  if not origin:
    recipe = config_lib.of_teacher(config)
    cached = runs.cache_folder(recipe, parts.source.info, 'teacher')
    train(recipe, cached, 'teacher')
    origin = str(cached.path)
  variables, result = processes.together(
    lambda: _read(config, origin, network, parts)
  )
  return variables, {
    'from': str(runs.Folder(epath.Path(origin).expanduser()).path),
    **{k: result[k] for k in ('best_on_test', 'wall_s') if k in result},
  }


def check(config: ConfigDict, parts: build.Parts, folder: runs.Folder) -> None:
  """Sees that `config.teacher.path`, where it is needed, holds the teacher.

  Before the folder is the run's: a wrong path leaves nothing behind.

  Raises:
    UsageError: where it holds no network, or another one.
  """
  path, networks = config.teacher.path, parts.exp.teachers
  if path and networks and folder.read('teacher.json') is None:
    (network,) = networks.values()
    processes.together(lambda: _read(config, path, network, parts))


def _read(
  config: ConfigDict, path: str, network: nn.Module, parts: build.Parts
) -> tuple[dict[str, Any], dict[str, Any]]:
  """The variables of a run, an export or a file of PyTorch weights.

  With what its result says; of a file of weights nothing is known.
  """
  info = parts.source.info
  place = epath.Path(path).expanduser()
  try:
    if place.suffix in _WEIGHTS:
      _check_digest(config, place)
      found = weights.load(network, place)
      return sharding.put(found, sharding.replicated(parts.mesh)), {}
    known = trained.load(path, parts.mesh)
    variables = trained.variables(
      known, network, len(info.class_names), info.image_size
    )
    _check_normalisation(config, info, known.facts)
  except errors.UsageError as error:
    raise errors.UsageError(f'config.teacher.path={path!r}: {error}') from error
  return variables, known.facts.get('result', {})


def _check_digest(config: ConfigDict, file: epath.Path) -> None:
  wanted = config.teacher.sha256
  if not wanted or not file.exists():
    return
  with file.open('rb') as content:
    found = hashlib.file_digest(content, 'sha256').hexdigest()
  if found != wanted.lower():
    raise errors.UsageError(
      f'its SHA-256 is {found}, and config.teacher.sha256={wanted!r}: it is '
      'another file, or damaged'
    )


def _check_normalisation(
  config: ConfigDict, info: source.Info, facts: dict[str, Any]
) -> None:
  """A teacher that sees images otherwise than in its training is wrong."""
  for key, ours in (('mean', info.mean), ('std', info.std)):
    seen = config.teacher[key] or ours
    if not np.allclose(seen, facts[key], atol=1e-4):
      raise errors.UsageError(
        f'it was trained with {key} {tuple(facts[key])}, and here it would see '
        f'images with {tuple(seen)}: set config.teacher.{key}='
        f'{tuple(facts[key])}'
      )


def measure(
  network: Any,
  variables: dict[str, Any],
  test: dataset.EvalSet,
  batch_size: int,
  mesh: Mesh,
  seen: Any = None,
) -> dict[str, float]:
  """A network's accuracy with running batch statistics.

  Args:
    network: it.
    variables: its.
    test: what it is measured on.
    batch_size: images a step.
    mesh: the devices.
    seen: its (scale, shift), as in `step.Experiment.inputs`; None is none.
  """
  if getattr(network, 'batch_norm', 'auto') != 'auto':
    network = network.clone(batch_norm='auto')
  exp = accuracy.alone(network)
  if seen:
    exp = exp._replace(inputs={'student': seen})
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
