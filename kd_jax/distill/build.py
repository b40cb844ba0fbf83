"""From a configuration to all static parts, checked before data is read."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from kd_jax import config as config_lib
from kd_jax import data, domains, errors, models, tasks
from kd_jax.data import source
from kd_jax.distill import augmented, checks, inspect, memory, optim, step
from kd_jax.distill import rules as rules_lib
from kd_jax.distill.parts import Parts, Phase
from kd_jax.methods import base, registry
from kd_jax.runtime import sharding

DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}


def build(config: ConfigDict) -> Parts:
  """Builds and checks all parts of a run.

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
  with errors.keys('config.data.'):  # labels are checked before all compiling
    for split in ('train', 'test', *(['val'] if info.num_val else [])):
      opened.split(split)
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
  )


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
  with errors.keys('config.student.args.'):
    student = make_network(config.student, classes, config.dtype)
  facts['task'] = tasks.find(task or models.task(student))
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
    for key, value in changes.items():
      if key == 'learning_rate':
        with changed.ignore_type():
          changed.optimizer.learning_rate = value
      elif key == 'weights':
        with changed.ignore_type(), changed.unlocked():
          for term, weight in value.items():
            changed.weights[term] = weight
      elif key in ('epochs', 'trainable'):
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
  if models.is_function(config.student.name):
    raise errors.UsageError(
      f'config.student.name={config.student.name!r}: a function of images has '
      'nothing to train; name a class of flax.linen.Module'
    )
  of_student = (config.student, classes, config.dtype, config.bn_group_size)
  with errors.keys('config.student.args.'):
    students = {name: make_network(*of_student) for name in method.students}
  teachers = _teachers(config, classes, method)
  if task:
    checks.check_networks(config, task, {**students, **teachers})
  return step.Experiment(
    students=students,
    teachers=teachers,
    method=method,
    weights=_weights(config, method, steps_per_epoch, first),
    tx=tx,
    trained=trained,
    accumulate_steps=config.accumulate_steps,
    inputs=_inputs(config, facts, method),
    learning_rate=rate and (lambda step: rate(step - first)),
    ema=config.get('ema', 0.0),  # which runs of older versions lack
  )


def _inputs(
  config: ConfigDict, facts: Mapping[str, Any], method: base.Method
) -> dict[str, tuple[list[float], list[float]]]:
  """Returns the (scale, shift) of the images for each teacher, by name.

  It is empty if teachers and students share a normalisation, or if `facts` has
  none yet. See `step.Experiment.inputs`.
  """
  teacher = config.teacher
  for key in ('mean', 'std'):
    if len(teacher[key]) not in (0, 3) or (key == 'std' and 0 in teacher[key]):
      raise errors.UsageError(
        f'config.teacher.{key}={teacher[key]}: give 3 numbers, of pixels in '
        '0..1'
      )
  if 'mean' not in facts:  # the data set is not known yet
    return {}
  mean, std = (np.asarray(facts[fact], np.float64) for fact in ('mean', 'std'))
  seen = np.asarray(teacher.mean or mean), np.asarray(teacher.std or std)
  if np.array_equal(seen, (mean, std)):
    return {}
  scale, shift = std / seen[1], (mean - seen[0]) / seen[1]
  return {name: (scale.tolist(), shift.tolist()) for name in method.teachers}


def make_network(
  network: ConfigDict, classes: int, dtype: str, bn_group_size: int = 0
) -> nn.Module:
  """Returns the network of `config.student` or `config.teacher`."""
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
  names = method.teachers
  if names and not config.teacher.name:
    raise errors.UsageError(
      f'method {config.method} needs a teacher: set config.teacher.name'
    )
  if config.teacher.name and not names:
    raise errors.UsageError(
      f'method {config.method} has no teacher, but config.teacher.name is '
      f'{config.teacher.name!r}: set it to the empty string'
    )
  if len(names) > 1:
    raise errors.UsageError(
      f'method {config.method} reads {len(names)} teachers '
      f'({", ".join(names)}), and config.teacher is one: several teachers are '
      'not there yet'
    )
  rate = config.teacher.recipe.to_dict().get('optimizer', {})
  if names and not config.teacher.path and 'learning_rate' in rate:
    key = 'config.teacher.recipe.optimizer.learning_rate'
    optim.schedule(rate['learning_rate'], 1, 1, key)
  dtype = config.teacher.dtype or config.dtype
  if names and dtype != 'float32' and models.is_function(config.teacher.name):
    raise errors.UsageError(
      f'{config.teacher.name} is a function of images and has no argument '
      "dtype; config.teacher.dtype='float32' leaves the choice to it"
    )
  with errors.keys('config.teacher.args.'):
    return {
      name: make_network(config.teacher, classes, dtype, config.bn_group_size)
      for name in names
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
  if chooses_taps(config):
    args |= _last_taps(config, cls, facts['num_classes'])
  with errors.keys('config.method_args.'):
    return registry.make(config.method, **args)


def chooses_taps(config: ConfigDict) -> bool:
  """Returns whether the method's taps are chosen from the networks."""
  cls = registry.method_class(config.method)
  return cls.reads_last_map and not config.method_args.get('taps')


def _last_taps(
  config: ConfigDict, cls: type[base.Method], classes: int
) -> dict[str, tuple[str, ...]]:
  """Returns 'taps' and 'teacher_taps'; see `inspect.last_taps`."""
  networks = {}
  is_taught = cls.teachers and config.teacher.name
  for key in ('student', *(('teacher',) if is_taught else ())):
    with errors.keys(f'config.{key}.args.'):
      networks[key] = make_network(config[key], classes, 'float32')
  found = inspect.last_taps(cls.taps, **networks)  # type: ignore[attr-defined]
  given = config.method_args.to_dict().get('teacher_taps')
  return {**found, 'teacher_taps': tuple(given)} if given else found


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
