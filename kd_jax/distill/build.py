"""From a configuration to all static parts, checked before data is read."""

from collections.abc import Callable, Mapping
import re
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict
import numpy as np

from kd_jax import config as config_lib
from kd_jax import data, domains, errors, models, tasks
from kd_jax.config import roles
from kd_jax.data import source
from kd_jax.distill import (
  augmented,
  checks,
  inspect,
  memory,
  networks,
  optim,
  step,
)
from kd_jax.distill import dispatch as dispatch_lib
from kd_jax.distill import rules as rules_lib
from kd_jax.distill.networks import DTYPES as DTYPES
from kd_jax.distill.networks import make_network as make_network
from kd_jax.distill.parts import Parts, Phase
from kd_jax.methods import base, registry
from kd_jax.runtime import sharding

# Keys of the run that trains a teacher, whose last parts are keys of a teacher.
_OF_TEACHER = ('data.image_size', 'student.name', 'student.args')


def build(config: ConfigDict, seeds: int = 1) -> Parts:
  """Builds and checks all parts of a run.

  Args:
    config: The configuration of the run.
    seeds: How many seeds train together with it.

  Raises:
    UsageError: A part does not exist or does not fit the others.
  """
  config_lib.check_values(config)
  with errors.keys('config.mesh.'):
    mesh = sharding.make_mesh(config.mesh.data)
  for key in ('batch_size', 'eval_batch_size'):
    sharding.check_batch(mesh, config[key], f'config.{key}')
  config_lib.check_batch(config, mesh.shape['data'])
  known = data.facts(config.data.name, config.data.image_size)
  # Where the facts are known, errors are raised before data is downloaded;
  # elsewhere those that do not depend on the classes.
  traced = check(config, *known, 'classification') if known else ()
  if traced:
    memory.check(traced, mesh)
  if not known:
    phases_of(config, _stand_ins(2), 1)
  opened = open_source(config)
  info = opened.info
  checks.check_splits(config, opened)
  config_lib.check_data(
    config,
    num_train=info.num_train,
    num_val=info.num_val,
    image_size=info.image_size,
    is_resident=augmented.resident(config, info, 'train'),
  )
  steps_per_epoch = info.num_train // config.batch_size
  facts: dict[str, Any] = {
    'num_classes': len(info.class_names),
    'task': tasks.find(info.task),
    'mean': info.mean,
    'std': info.std,
  }
  reads_labels = _reads_labels(config)
  if reads_labels:
    facts['train_labels'] = opened.split('train').labels
  phases = phases_of(config, facts, steps_per_epoch)
  if reads_labels or known != (len(info.class_names), info.image_size):
    traced = tuple(trace(config, p, info.image_size) for p in phases)
    memory.check(traced, mesh)
  return Parts(
    source=opened,
    mesh=mesh,
    phases=phases,
    traced=traced,
    steps_per_epoch=steps_per_epoch,
    dispatch=dispatch(
      config,
      phases[-1].exp,
      lambda: traced[-1],
      mesh,
      info.image_size,
      steps_per_epoch,
      streams=not augmented.resident(config, info, 'train'),
      seeds=seeds,
    ),
  )


def dispatch(
  config: ConfigDict,
  exp: step.Experiment,
  traced: Callable[[], inspect.Traced],
  mesh: Mesh,
  image_size: int,
  steps_per_epoch: int,
  *,
  streams: bool,
  seeds: int = 1,
) -> dispatch_lib.Dispatch:
  """Returns the steps of a run's dispatch; see `dispatch.Setting`.

  Raises:
    UsageError: The teacher cannot run ahead as the configuration says.
  """
  with errors.keys('config.'):
    return dispatch_lib.chosen(
      dispatch_lib.Setting(
        exp=exp,
        traced=traced,
        platform=mesh.devices.flat[0].platform,
        devices=mesh.size,
        image_size=image_size,
        batch_size=config.batch_size,
        steps_per_epoch=steps_per_epoch,
        streams=streams,
        cached=config.teacher.cache_logits,
        steps=config.steps_per_dispatch,
        ahead=config.get('teacher_ahead', 0),  # older runs lack it
        seeds=seeds,
        keeps_plain=config.teacher.sees == 'plain',
      )
    )


def check_recipe(config: ConfigDict, recipe: ConfigDict) -> None:
  """Builds the run that trains a teacher, which must be able to run here.

  Args:
    config: The configuration of a run with the teacher as `config.teacher`.
    recipe: What `config.of_teacher` returns for it.

  Raises:
    UsageError: It cannot run; the message has the keys of `config`.
  """
  try:
    build(recipe)
  except errors.UsageError as error:
    text = re.sub(
      r'\bconfig\.(\w+)(\.\w+)?', lambda key: _of_run(config, *key.groups('')),
      str(error),
    )  # fmt: skip
    where = '' if 'config.' in text else 'config.teacher.recipe: '
    raise errors.UsageError(f'{where}{text}') from error


def _of_run(config: ConfigDict, group: str, field: str) -> str:
  """Returns the key of a run for a key of the run that trains its teacher."""
  key, teacher = f'{group}{field}', config.teacher
  values = teacher.recipe.get(group, {})
  if group in teacher.recipe and (not field or field[1:] in values):
    return f'config.teacher.recipe.{key}'
  if key in _OF_TEACHER and (key != 'data.image_size' or teacher.image_size):
    return f'config.teacher{field}'
  return f'config.{key}'


def _reads_labels(config: ConfigDict) -> bool:
  """Returns whether the method is made from the labels of all images."""
  return 'train_labels' in registry.fields(registry.method_class(config.method))


def check(
  config: ConfigDict, classes: int, image_size: int, task: str = ''
) -> tuple[inspect.Traced, ...]:
  """Checks what can be checked without the data set.

  Args:
    config: The configuration.
    classes: The number of classes, K.
    image_size: Height and width in pixels.
    task: The name of the data's task; '' takes the student's.

  Returns:
    What tracing tells of each phase. Where a method reads the labels of all
    images, its state has those of stand-ins.

  Raises:
    UsageError: A part does not exist or does not fit the others.
  """
  facts = _stand_ins(classes)
  method = _method(config, facts)
  students = networks.students(config, classes, method)
  facts['task'] = tasks.find(task or models.task(students[method.students[0]]))
  phases = phases_of(config, facts, 1)
  return tuple(trace(config, phase, image_size) for phase in phases)


def _stand_ins(classes: int) -> dict[str, Any]:
  """Returns facts that stand in for those of a data set; see `phases_of`."""
  labels = np.arange(classes, dtype=np.int32)
  return {'num_classes': classes, 'train_labels': labels, 'stand_in': True}


def trace(config: ConfigDict, phase: Phase, image_size: int) -> inspect.Traced:
  """Returns what tracing tells of a phase; see `inspect.trace`.

  Raises:
    UsageError: A tap is unknown or does not fit the method, or a rule matches
      no parameter.
  """
  batch_size, cached = config.batch_size, config.teacher.cache_logits
  with errors.keys('config.method_args.'):
    soft = augmented.mixed(config, 1).softens
    return inspect.trace(
      phase.exp, image_size, batch_size, phase.rules, cached, soft
    )


def eval_batch_size(config: ConfigDict, parts: Parts) -> int:
  """Returns the images of a step of the evaluation, over all devices.

  They are no more than those of the largest split that a run evaluates.

  Args:
    config: The configuration.
    parts: The parts of the run.
  """
  info, devices = parts.source.info, parts.mesh.size
  largest = max(info.num_val, info.num_test)
  return min(config.eval_batch_size, -(-largest // devices) * devices)


def open_source(config: ConfigDict) -> source.Source:
  """Opens the data set of `config.data`."""
  options = config.data
  with errors.keys('config.data.'):
    return data.open_source(
      options.name,
      train_size=options.train_size,
      val_fraction=options.val_fraction,
      image_size=options.image_size,
      mean=tuple(options.mean),
      std=tuple(options.std),
      data_dir=options.data_dir,
      archive=options.archive,
      any_checksum=options.any_checksum,
      cache_dir=config.cache_dir,
    )


def phases_of(
  config: ConfigDict, facts: Mapping[str, Any], steps_per_epoch: int
) -> tuple[Phase, ...]:
  """Returns the phases of a run; without `config.phases` there is one.

  Args:
    config: The configuration of the run.
    facts: What a method may need to know of the data: 'num_classes' and
      'train_labels' [N] i32.
    steps_per_epoch: Steps of an epoch.

  Raises:
    UsageError: A part does not exist or does not fit the others.
  """
  phases: list[Phase] = []
  for name in (*sorted(config.phases), ''):
    changed = config.copy_and_resolve_references()
    changes = config.phases[name] if name else ConfigDict()
    if not isinstance(changes, ConfigDict):
      raise errors.UsageError(
        f'config.phases.{name}={changes!r}: give a group of keys, such as '
        "{'epochs': 1}"
      )
    if name and 'epochs' not in changes:
      raise errors.UsageError(
        f'config.phases.{name} lacks epochs: give how many it takes before the '
        'epochs of config.epochs'
      )
    for key, value in changes.items():
      if key == 'learning_rate':
        with changed.ignore_type():
          changed.optimizer.learning_rate = value
      elif key == 'weights':
        with changed.ignore_type(), changed.unlocked():
          for term, weight in value.items():
            changed.weights[term] = weight
      elif key in ('epochs', 'trainable'):
        if key == 'trainable':
          rules_lib.check_expressions(value, f'config.phases.{name}.trainable')
        with changed.ignore_type():
          changed[key] = value
      else:
        known = ('epochs', 'learning_rate', 'trainable', 'weights')
        raise errors.unknown(f'field of config.phases.{name}:', key, known)
    where = f'config.phases.{name}' if name else 'config'
    domains.check_key('epochs', changed.epochs, f'{where}.epochs')
    first = phases[-1].last if phases else 0
    last = first + changed.epochs * steps_per_epoch
    if last >= 2**31:
      raise errors.UsageError(
        f'{where}.epochs={changed.epochs}: the run would end with step {last}, '
        'and steps are counted to 2147483647; give fewer epochs'
      )
    exp = experiment(changed, facts, steps_per_epoch, first)
    augmented.check(config, exp.method, facts.get('task'))
    rules = (*(rule[0] for rule in changed.optimizer.rules), *changed.trainable)
    phases.append(Phase(name, exp, first, last, rules))
  return tuple(phases)


def experiment(
  config: ConfigDict,
  facts: Mapping[str, Any],
  steps_per_epoch: int,
  first: int = 0,
) -> step.Experiment:
  """Returns the networks, method, weights and optimizer of a phase.

  Args:
    config: The configuration of the phase.
    facts: Facts of the data; see `phases_of`.
    steps_per_epoch: Steps of an epoch.
    first: The first step of the phase, from which its schedules count.

  Raises:
    UsageError: A part does not exist or does not fit the others.
  """
  classes, task = facts['num_classes'], facts.get('task')
  if task:
    checks.check_method(config, task)
  method = _method(config, facts)
  tx, trained, rate = rules_lib.optimizer(config, steps_per_epoch)
  students = networks.students(config, classes, method)
  teachers = networks.teachers(config, classes, method)
  if task:
    checks.check_networks(config, task, students, teachers)
  return step.Experiment(
    students=students,
    teachers=teachers,
    method=method,
    weights=_weights(config, method, steps_per_epoch, first),
    tx=tx,
    trained=trained,
    batch_students=config.get('batch_students', False),
    accumulate_steps=config.accumulate_steps,
    inputs=networks.inputs(config, facts, method),
    sizes=networks.sizes(config, method),
    learning_rate=rate and (lambda step: rate(step - first)),
    ema=config.get('ema', 0.0),  # which runs of older versions lack
  )


def _method(config: ConfigDict, facts: Mapping[str, Any]) -> base.Method:
  cls = registry.method_class(config.method)
  known = {
    **facts,
    'dtype': networks.DTYPES[config.dtype],
    'bn_group_size': config.bn_group_size,
  }
  args = {key: known[key] for key in known.keys() & registry.fields(cls)}
  for key, value in config.method_args.to_dict().items():
    args[key] = tuple(value) if isinstance(value, list) else value
  with errors.keys('config.method_args.'):
    if chooses_taps(config):
      args = {k: v for k, v in args.items() if not k.endswith('taps')}
      any_taps = registry.make(config.method, **args)
      args |= networks.last_taps(config, any_taps, facts['num_classes'])
    made = registry.make(config.method, **args)
  roles.check(config, made.students, made.teachers)
  return made


def chooses_taps(config: ConfigDict) -> bool:
  """Returns whether the method's taps are chosen from the networks."""
  cls = registry.method_class(config.method)
  return cls.reads_last_map and not config.method_args.get('taps')


def _weights(
  config: ConfigDict, method: base.Method, steps_per_epoch: int, first: int
) -> dict[str, Any]:
  terms = method.terms
  for name in config.weights:
    if name not in terms:
      raise errors.unknown(f'weight of method {config.method}:', name, terms)
  if missing := [name for name in terms if name not in config.weights]:
    known = {name: _plain(config.weights.get(name, 0.0)) for name in terms}
    raise errors.UsageError(
      f'config.weights lacks {", ".join(missing)} of method {config.method}: '
      f'give all terms, such as --config.weights="{known}" (0.0 '
      'is off)'
    )

  # Terms of a method of the user's own may be there to grow.
  own, length = ':' in config.method, (steps_per_epoch, config.epochs)

  def counted(name: str, spec: Any) -> optim.Schedule:
    schedule = optim.schedule(_plain(spec), *length, name, signed=own)
    return lambda step: schedule(step - first)

  with errors.keys('config.weights.'):
    return {name: counted(name, spec) for name, spec in config.weights.items()}


def _plain(value: Any) -> Any:
  return value.to_dict() if isinstance(value, ConfigDict) else value
