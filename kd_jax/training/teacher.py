"""A run's teacher: located or trained, measured, and kept with the run."""

from collections.abc import Callable
import os
from typing import Any

from etils import epath
import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict
import numpy as np

from kd_jax import config as config_lib
from kd_jax import errors, models, tasks
from kd_jax.config import roles
from kd_jax.data import dataset, resident, source
from kd_jax.distill import build, evaluation, inspect, jitted, step
from kd_jax.runtime import (
  checkpoint,
  distributed,
  downloads,
  durable,
  run_dir,
  sharding,
)
from kd_jax.training import facts as facts_lib
from kd_jax.training import origin, restore, teacher_path
from kd_jax.version import __version__

# What is kept of the facts of a teacher from elsewhere.
_KEPT = ('best_on_test', 'wall_s', 'notes')

Train = Callable[[ConfigDict, run_dir.Folder, str], dict[str, Any]]


def obtain(
  config: ConfigDict,
  parts: build.Parts,
  folder: run_dir.Folder,
  split: Callable[[str], dataset.EvalSet],
  train: Train,
  say: Callable[[str], None],
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Returns the variables of the run's teachers, on the mesh, and their facts.

  A teacher that is a function has no variables. Another teacher comes from the
  run's folder, else from `config.teacher.path`, else from the cache, where it
  is trained first if it is missing. It is measured and then copied to the
  run's folder.

  Args:
    config: The configuration of the run.
    parts: The parts of the run.
    folder: The run's folder.
    split: Returns the split 'test', 'val' or 'train'.
    train: Trains a network from a configuration into a folder, with a label.
    say: A function that prints a line for the user.

  Returns:
    The variables, and the facts (the content of teacher.json), both by the
    teacher's name.

  Raises:
    UsageError: `config.teacher.path` holds no network that fits.
    RunError: Its accuracy is below `config.teacher.expected_top1`.
  """
  frozen, facts = {}, {}
  for name in parts.exp.teachers:
    with roles.naming(config, name):
      frozen[name], facts[name] = _obtained(
        roles.with_teacher(config, name), parts, name, folder, split, train, say
      )
  return frozen, facts


def _obtained(
  config: ConfigDict,
  parts: build.Parts,
  name: str,
  folder: run_dir.Folder,
  split: Callable[[str], dataset.EvalSet],
  train: Train,
  say: Callable[[str], None],
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Returns the variables and the facts of a teacher; see `obtain`.

  Args:
    config: The configuration of the run, with this teacher as its teacher.
    parts: The parts of the run.
    name: The teacher's name.
    folder: The run's folder.
    split: Returns a split.
    train: Trains a network.
    say: A function that prints a line for the user.
  """
  metric, file = parts.task.headline, f'{run_dir.of_teacher(name)}.json'
  facts = folder.read(file)
  variables = None
  if facts is not None:
    if lacking := {'network', 'from', metric.name} - facts.keys():
      raise errors.UsageError(
        f'{folder.path}/{file} lacks {min(lacking)!r}: delete it, and '
        'the teacher is taken again'
      )
    _check(config, facts, metric)
    variables = _kept(parts, name, folder, say)
  if variables is None:
    variables, origin = _found(config, parts, name, train, say)
    facts = {'network': config.teacher.name, **origin}
    facts |= _measured(config, parts, name, variables, split)
    _check(config, facts, metric)
    if jax.tree.leaves(variables):
      _check_same(folder, variables, parts.mesh, name)
      folder.guard()  # the lock may be lost after a long training
      checkpoint.save_only(folder.path / run_dir.of_teacher(name), 0, variables)
    folder.write(file, facts)
  value = facts[metric.name]
  network = config.teacher.name
  called = 'teacher' if name == run_dir.TEACHER else f'teacher {name},'
  line = f'{called} {network}: {metric.text} {value:.2f}% on test'
  say('; '.join((line, *facts.get('notes', ()))))
  return variables, facts


def _measured(
  config: ConfigDict,
  parts: build.Parts,
  name: str,
  variables: dict[str, Any],
  split: Callable[[str], dataset.EvalSet],
) -> dict[str, float]:
  """Returns a teacher's figures on test and where they are expected."""
  metric = parts.task.headline.name
  found: dict[str, float] = {}
  for split_name in dict.fromkeys(('test', config.teacher.expected_on)):
    measures = measure(
      parts.exp.teachers[name],
      variables,
      split(split_name),
      build.eval_batch_size(config, parts),
      parts.mesh,
      parts.exp.inputs.get(name),
      parts.exp.sizes.get(name, 0),
    )
    found |= (
      measures
      if split_name == 'test'
      else {f'{metric}_{split_name}': measures[metric]}
    )
  return found


def _kept(
  parts: build.Parts,
  name: str,
  folder: run_dir.Folder,
  say: Callable[[str], None],
) -> dict[str, Any] | None:
  """Returns a teacher of the run's folder; None sets it aside as damaged."""
  shapes = inspect.frozen(parts.exp, parts.source.info.image_size)[name]
  if not jax.tree.leaves(shapes):
    return shapes
  place = folder.path / run_dir.of_teacher(name)
  try:
    return restore.restore(place, shapes, parts.mesh)
  except checkpoint.Damaged as error:
    new = distributed.first(lambda: os.fspath(durable.set_aside(place)))
    say(f'{error}; it is now {new}, and the teacher is taken again')
    return None


def _check_same(
  folder: run_dir.Folder, variables: dict[str, Any], mesh: Mesh, name: str
) -> None:
  """Raises RunError if a run that is on its way would get another teacher."""
  place = folder.path / run_dir.of_teacher(name)
  if not (place.exists() and (folder.path / 'checkpoints').exists()):
    return
  try:
    old = restore.restore(place, variables, mesh)
  except (checkpoint.Damaged, errors.UsageError):
    return  # there is nothing to compare with
  if not all(jax.tree.leaves(jax.tree.map(np.array_equal, old, variables))):
    raise errors.RunError(
      f'{place}.json is gone, and the teacher is not the one that is in {place}'
      '; put either back, or give another --workdir'
    )


def _found(
  config: ConfigDict,
  parts: build.Parts,
  name: str,
  train: Train,
  say: Callable[[str], None],
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Returns the teacher's variables, trained if need be, and their facts."""
  network = parts.exp.teachers[name]
  if isinstance(network, models.Function):
    return {'params': {}}, {'from': config.teacher.name}
  place, known = config.teacher.path, {}
  if place:
    known = {'digest': distributed.first(lambda: teacher_path.digest(config))}
  else:
    recipe = config_lib.of_teacher(config)
    cached = cache_folder(recipe, parts.source.info, 'teacher')
    train(recipe, cached, facts_lib.called(name))
    place = str(cached.path)

  def read() -> tuple[dict[str, Any], dict[str, Any]]:
    try:
      return teacher_path.read(
        config,
        place,
        network,
        parts,
        lambda x: say(f"{facts_lib.called(name)}'s file: {x}"),
      )
    except errors.UsageError as error:
      if config.teacher.path:
        raise
      raise errors.RunError(
        f'{error}; move {place} away, and it is trained again'
      ) from error

  variables, facts = distributed.together(read)
  if downloads.is_url(place):
    place = errors.public(place)
  else:
    place = str(run_dir.Folder(epath.Path(place).expanduser()).path)
  return variables, {
    'from': place,
    **known,
    **{key: facts[key] for key in _KEPT if key in facts},
  }


def check(
  config: ConfigDict, parts: build.Parts, folder: run_dir.Folder
) -> None:
  """Checks that each `config.teacher.path` that is used holds the teacher.

  A teacher that is to be trained must have a recipe that can run. It is called
  before the folder is claimed, so that a mistake leaves nothing behind, and
  before any teacher is trained.

  Raises:
    UsageError: The path holds no network, or another one than that which
      teaches the run in the folder; or a recipe cannot run here.
  """
  if not parts.exp.teachers:
    _check_class_names(config)
  for name in parts.exp.teachers:
    with roles.naming(config, name):
      _check_path(roles.with_teacher(config, name), parts, name, folder)


def _check_class_names(config: ConfigDict) -> None:
  if config.teacher.class_names:
    raise errors.UsageError(
      f'config.teacher.class_names={config.teacher.class_names}: they are for '
      'a teacher of config.teacher.path; leave them out'
    )


def _check_path(
  config: ConfigDict, parts: build.Parts, name: str, folder: run_dir.Folder
) -> None:
  """Does what `check` does for one teacher, which is `config.teacher`."""
  path = config.teacher.path
  if not path:
    _check_class_names(config)
  facts = folder.read(f'{run_dir.of_teacher(name)}.json')
  if path and facts is not None:
    was = facts.get('digest', '')
    distributed.first(
      lambda: origin.check(was, teacher_path.digest(config), path, folder)
    )
  elif path:
    network = parts.exp.teachers[name]
    if downloads.is_url(path):
      distributed.first(lambda: str(teacher_path.file(config)))
    distributed.together(
      lambda: teacher_path.read(config, path, network, parts)
    )
  elif facts is None and not models.is_function(config.teacher.name):
    recipe = config_lib.of_teacher(config)
    place = cache_folder(recipe, parts.source.info, 'teacher')
    if place.read('result.json') is None:
      distributed.together(lambda: build.check_recipe(config, recipe))


def measured(network: Any, seen: Any = None, size: int = 0) -> step.Experiment:
  """Returns the experiment of `measure`, with the network as 'student'.

  Args:
    network: The network.
    seen: The (scale, shift) of its images; see `measure`.
    size: The pixels of its images; see `measure`.
  """
  if getattr(network, 'batch_norm', 'auto') != 'auto':
    network = network.clone(batch_norm='auto')
  exp = evaluation.alone(network)
  return exp._replace(
    inputs={'student': seen} if seen else {},
    sizes={'student': size} if size else {},
  )


def measure(
  network: Any,
  variables: dict[str, Any],
  test: dataset.EvalSet,
  batch_size: int,
  mesh: Mesh,
  seen: Any = None,
  size: int = 0,
) -> dict[str, float]:
  """Returns a network's accuracy with running batch statistics.

  Args:
    network: The network to evaluate.
    variables: Its variables, as returned by `init`.
    test: The split to evaluate.
    batch_size: Images of a batch, over all devices.
    mesh: The devices.
    seen: The (scale, shift) of its images, as in `step.Experiment.inputs`; None
      leaves them as they are.
    size: The pixels to which its images are resized, as in
      `step.Experiment.sizes`; 0 leaves them as they are.

  Returns:
    The figures of `evaluation.evaluate`, such as 'top1' in percent.
  """
  exp = measured(network, seen, size)
  state = {
    collection: value
    for collection, value in variables.items()
    if collection != 'params'
  }
  measures = evaluation.evaluate(
    exp.method.task,
    evaluation.make(exp, test, mesh),
    test,
    batch_size,
    {'student': variables['params'], 'method': {}},
    {'student': state, 'method': {}},
    {},
  )
  return measures['student']


def folded(parts: build.Parts, frozen: dict[str, Any]) -> dict[str, Any]:
  """Returns the teachers' variables as every step reads them, on the mesh.

  See `step.fold`.
  """
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
  """Returns the teachers' logits of every training image, by their batch keys.

  They are [M,V,K] f32 on the mesh, for M images with V `views` each. They equal
  those of a training step up to the rounding of another batch size.

  Args:
    config: The configuration of the run.
    parts: The parts of the run.
    frozen: The teachers' variables by name.
    train: The training split.
  """
  of_batch = jitted.known_logits(parts.exp, train, parts.mesh)
  batches = [
    jax.device_get(
      of_batch(frozen, train.arrays, sharding.join(feed, parts.mesh))
    )
    for feed in train.eval_feeds(build.eval_batch_size(config, parts))
  ]
  joined = jax.tree.map(lambda *xs: np.concatenate(xs)[: train.size], *batches)
  return sharding.put(joined, sharding.replicated(parts.mesh))


def _check(
  config: ConfigDict, facts: dict[str, Any], metric: tasks.Metric
) -> None:
  expected, split = config.teacher.expected_top1, config.teacher.expected_on
  name, text = metric
  value = facts[name if split == 'test' else f'{name}_{split}']
  if value < expected and not config.teacher.allow_below_expected:
    raise errors.RunError(
      f'the teacher from {facts["from"]} has {text} {value:.2f}% on {split}, '
      f'less than config.teacher.expected_top1={expected}; train it longer, or '
      'set config.teacher.allow_below_expected=True'
    )


def cache_folder(
  config: ConfigDict, info: source.Info, kind: str
) -> run_dir.Folder:
  """Returns the folder in which a network that many runs share is trained.

  Args:
    config: The configuration that trains it. Together with `info`, the content
      of `config.student.init` and the version of kd_jax, it determines the
      folder.
    info: The facts of the data set on this machine.
    kind: Its use, as a label in the folder's name: 'teacher' or 'alone'.
  """
  identity: Any = info.identity()
  if teacher_path.INIT.value(config, 'path'):  # what is there may change
    init = teacher_path.INIT
    begun = distributed.first(lambda: teacher_path.digest(config, init))
    identity = [identity, begun]
  digest = config_lib.digest(config, identity)
  name = '-'.join((kind, config.student.name, config.data.name, digest))
  name = name.replace('/', '_').replace(':', '_')
  home = run_dir.cache_root(config.cache_dir)
  return run_dir.Folder(home / f'networks-{__version__}' / name)
