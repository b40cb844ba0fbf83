"""A run's teacher: found, trained on demand, measured, kept with the run."""

from collections.abc import Callable, Iterator
import contextlib
import pathlib
import re
from typing import Any
from urllib import parse

from etils import epath
import flax.linen as nn
import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict
import numpy as np

from kd_jax import config as config_lib
from kd_jax import errors, models
from kd_jax.data import dataset, resident, source
from kd_jax.distill import build, evaluation, inspect, jitted, step
from kd_jax.models.pretrained import convert
from kd_jax.runtime import (
  checkpoint,
  distributed,
  downloads,
  gcs,
  locks,
  run_dir,
  sharding,
)
from kd_jax.training import restore
from kd_jax.version import __version__

# What ends the name of a file of PyTorch weights.
_WEIGHTS = ('.safetensors', '.pth', '.pt', '.tar', '.bin')
_DIGITS = re.compile('[0-9a-fA-F]{8,64}')

Train = Callable[[ConfigDict, run_dir.Folder, str], dict[str, Any]]


def obtain(
  config: ConfigDict,
  parts: build.Parts,
  folder: run_dir.Folder,
  split: Callable[[str], dataset.EvalSet],
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
    split: gives 'test', 'val' or 'train'.
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
    facts = {'network': config.teacher.name, **known}
    for each in dict.fromkeys(('test', config.teacher.expected_on)):
      found = measure(network, variables, split(each), size, parts.mesh, seen)
      facts |= found if each == 'test' else {f'top1_{each}': found['top1']}
    _check(config, facts)
    if jax.tree.leaves(variables):
      folder.guard()  # its training may have taken long
      checkpoint.save_only(folder.path / 'teacher', 0, variables)
    folder.write('teacher.json', facts)
  else:
    _check(config, facts)
    variables = dict(
      inspect.variables_of(network, parts.source.info.image_size)
    )
    if jax.tree.leaves(variables):
      place = folder.path / 'teacher'
      variables = restore.restore(place, variables, parts.mesh)
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
    cached = cache_folder(recipe, parts.source.info, 'teacher')
    train(recipe, cached, 'teacher')
    origin = str(cached.path)
  variables, result = distributed.together(
    lambda: _read(config, origin, network, parts)
  )
  if not downloads.is_url(origin):
    origin = str(run_dir.Folder(epath.Path(origin).expanduser()).path)
  return variables, {
    'from': origin,
    **{k: result[k] for k in ('best_on_test', 'wall_s') if k in result},
  }


def check(
  config: ConfigDict, parts: build.Parts, folder: run_dir.Folder
) -> None:
  """Sees that `config.teacher.path`, where it is needed, holds the teacher.

  Before the folder is the run's: a wrong path leaves nothing behind.

  Raises:
    UsageError: where it holds no network, or another one.
  """
  path, networks = config.teacher.path, parts.exp.teachers
  if path and networks and folder.read('teacher.json') is None:
    (network,) = networks.values()
    if downloads.is_url(path):
      distributed.first(lambda: str(_file(config)))
    distributed.together(lambda: _read(config, path, network, parts))


def _read(
  config: ConfigDict, path: str, network: nn.Module, parts: build.Parts
) -> tuple[dict[str, Any], dict[str, Any]]:
  """The variables of a run, an export or a file of PyTorch weights.

  With what its result says; of a file of weights nothing is known.
  """
  info = parts.source.info
  if downloads.is_url(path) or path.endswith(_WEIGHTS):
    file = _file(config)
    with _about(path):
      found = convert.load(network, file)
    return sharding.put(found, sharding.replicated(parts.mesh)), {}
  with _about(path):
    known = restore.load(path, parts.mesh)
    variables = restore.variables(
      known, network, len(info.class_names), info.image_size
    )
    _check_normalisation(config, info, known.facts)
  return variables, known.facts.get('result', {})


@contextlib.contextmanager
def _about(path: str) -> Iterator[None]:
  try:
    yield
  except errors.UsageError as error:
    raise errors.UsageError(f'config.teacher.path={path!r}: {error}') from error


def _file(config: ConfigDict) -> epath.Path:
  """The file of weights, downloaded if need be, with the expected SHA-256."""
  path, digits = config.teacher.path, config.teacher.sha256
  wanted = downloads.Published(path, 'sha256', digits)
  with _about(path):
    if digits and not _DIGITS.fullmatch(digits):
      raise errors.UsageError(
        f'config.teacher.sha256={digits!r}: give its 64 hexadecimal digits, or '
        'the first 8 or more'
      )
    if not downloads.is_url(path):
      place = epath.Path(path).expanduser()
    else:
      place = _downloaded(config, wanted)
    if digits and place.exists():
      downloads.verify(wanted, place, 'See config.teacher.sha256')
  return place


def _downloaded(config: ConfigDict, wanted: downloads.Published) -> epath.Path:
  name = pathlib.PurePosixPath(parse.urlsplit(wanted.url).path).name
  if not name.endswith(_WEIGHTS):
    raise errors.UsageError(
      f'a URL names a file of weights ({", ".join(_WEIGHTS)}); fetch a run or '
      'an export, and give its folder'
    )
  if not wanted.checksum:
    raise errors.UsageError(
      'set config.teacher.sha256 to what its publisher says, or to the first 8 '
      'digits or more, so that another file is noticed'
    )
  folder = run_dir.cache_root(config.cache_dir) / 'downloads'
  if gcs.is_bucket(folder):  # a file in a bucket cannot be gone on with
    folder = epath.Path('~/.cache/kd_jax/downloads').expanduser()
  place = folder / f'{wanted.checksum[:8].lower()}-{name}'
  with contextlib.suppress(OSError):  # the lock says what is wrong
    folder.mkdir(parents=True, exist_ok=True)
  with locks.hold(folder / '.lock', wait=True):
    if not place.exists():
      cure = 'Fetch it yourself, and give its path'
      downloads.fetch(wanted, place, cure, distributed.say)
  return place


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


def measured(network: Any, seen: Any = None) -> step.Experiment:
  """What `measure` evaluates: the network as 'student', by itself."""
  if getattr(network, 'batch_norm', 'auto') != 'auto':
    network = network.clone(batch_norm='auto')
  exp = evaluation.alone(network)
  return exp._replace(inputs={'student': seen}) if seen else exp


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
  exp = measured(network, seen)
  state = {c: v for c, v in variables.items() if c != 'params'}
  found = evaluation.evaluate(
    evaluation.make(exp, test, mesh),
    test,
    batch_size,
    {'student': variables['params'], 'method': {}},
    {'student': state, 'method': {}},
    {},
  )
  return found['student']


def folded(parts: build.Parts, frozen: dict[str, Any]) -> dict[str, Any]:
  """The variables as every step reads them, on the mesh; see `step.fold`."""
  if not frozen:
    return frozen
  size = parts.source.info.image_size
  return jitted.fold(parts.exp, size, parts.mesh)(frozen)


def logits(
  config: ConfigDict,
  parts: build.Parts,
  frozen: dict[str, Any],
  train: resident.Training,
) -> dict[str, jax.Array]:
  """What the teachers say of every training image, by the batch's key.

  Each [M,V,K] f32 on the mesh, of the V `views` of an image. The same as in a
  training step, to the rounding of another batch size.
  """
  of_batch = jitted.known_logits(parts.exp, train, parts.mesh)
  found = [
    jax.device_get(
      of_batch(frozen, train.arrays, sharding.join(feed, parts.mesh))
    )
    for feed in train.eval_feeds(config.eval_batch_size)
  ]
  every = jax.tree.map(lambda *xs: np.concatenate(xs)[: train.size], *found)
  return sharding.put(every, sharding.replicated(parts.mesh))


def _check(config: ConfigDict, facts: dict[str, Any]) -> None:
  expected, split = config.teacher.expected_top1, config.teacher.expected_on
  top1 = facts['top1' if split == 'test' else f'top1_{split}']
  if top1 < expected and not config.teacher.allow_below_expected:
    raise errors.RunError(
      f'the teacher from {facts["from"]} has top-1 {top1:.2f}% on {split}, '
      f'less than config.teacher.expected_top1={expected}; mend it, or set '
      'config.teacher.allow_below_expected=True'
    )


def cache_folder(
  config: ConfigDict, info: source.Info, kind: str
) -> run_dir.Folder:
  """Where a network that many runs share is trained and kept.

  Args:
    config: the configuration that trains it.
    info: of the data as it is there. Both, with the version of kd_jax,
      determine the folder.
    kind: how it is used, for a person's eye: 'teacher' or 'alone'.
  """
  name = (
    '-'.join(
      (
        kind,
        config.student.name,
        config.data.name,
        config_lib.digest(config, info.identity()),
      )
    )
    .replace('/', '_')
    .replace(':', '_')
  )
  home = run_dir.cache_root(config.cache_dir)
  return run_dir.Folder(home / f'networks-{__version__}' / name)
