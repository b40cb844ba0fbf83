"""The description that a PyTorch peer needs to train what kd_jax trains."""

import os
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from kd_jax import config as config_lib
from kd_jax import errors
from kd_jax.benchmark import case
from kd_jax.distill import optim, step
from kd_jax.methods import base, registry

# The methods of benchmarks/torch_methods.py with the arguments that they take.
# Any other argument must have its default value.
METHODS: dict[str, tuple[str, ...]] = {
  'ce': (),
  'crd': (
    'contrast_temperature', 'momentum', 'negatives', 'temperature', 'width'
  ),
  'ffsd': ('common_students', 'taps', 'temperature'),
  'fpd': ('se_reduction', 'taps', 'temperature', 'width'),
  'kd': ('temperature',),
  'ofd': ('divisors', 'stages', 'temperature'),
  'pics': ('factor', 'projectors', 'taps', 'temperature'),
}  # fmt: skip
# The arguments of networks that the peers take.
NETWORKS = {
  'student': ('dropout', 'stem', 'widths'),
  'teacher': ('batch_norm', 'stem', 'widths'),
}
OPTIMIZERS = ('adam', 'sgd')
# Arguments of methods that the data or the run determine.
_FACTS = ('bn_group_size', 'dtype', 'num_classes', 'task', 'train_labels')
# Fields of the configuration that the peers support at the default only.
_DEFAULT = (
  'accumulate_steps', 'bn_group_size', 'optimizer.clip_norm',
  'optimizer.args', 'optimizer.decay_norms', 'phases', 'trainable',
  'students', 'teachers', 'teacher.cache_logits', 'teacher.dtype',
  'teacher.image_size', 'student.init', 'ema', 'data.mixup', 'data.cutmix',
  'data.label_smoothing', 'data.policy', 'data.color_jitter', 'data.erasing',
)  # fmt: skip


def arguments(
  config: ConfigDict, exp: step.Experiment, wanted: case.Wanted, label: str
) -> dict[str, Any]:
  """Returns the arguments that a peer is started with, except its variant.

  JSON can hold them. Weights and learning rates are those of the first step.

  Args:
    config: The configuration.
    exp: The experiment of its first phase.
    wanted: The requested variant of the configuration.
    label: The name of the configuration, for error messages.

  Raises:
    UsageError: The peers do not support the configuration.
  """
  name, method = config.method, exp.method
  if name not in METHODS:
    raise errors.UsageError(
      f'--compare: the PyTorch peers do not train {name} ({label}); they train '
      f'{", ".join(METHODS)}'
    )
  for field in _changed(method):
    if field not in METHODS[name]:
      value, known = getattr(method, field), ', '.join(METHODS[name])
      raise _refused(label, f'method_args.{field}', value, f'know {known}')
  default = config_lib.default()
  for path in _DEFAULT:
    value, common = _at(config, path), _at(default, path)
    if value != common:
      raise _refused(label, path, value, f'have {common}')
  crop_flip = case.crop_flip(config, wanted.image_size)
  return {
    'task': method.task.name,
    'method': name,
    'method_args': {key: getattr(method, key) for key in METHODS[name]},
    'weights': {
      term: float(weight(jnp.int32(0))) for term, weight in exp.weights.items()
    },
    'students': list(exp.students),
    **{role: _network(config, role, label) for role in NETWORKS},
    'rules': _rules(config, wanted, label),
    'classes': wanted.classes,
    'image_size': wanted.image_size,
    'images': wanted.images,
    'batch_size': wanted.batch_size,
    'padding': crop_flip.padding,
    'padding_mode': crop_flip.mode,
    'flip': crop_flip.flip,
    'mean': case.MEAN,
    'std': case.STD,
    'workers': min(8, os.cpu_count() or 1),
  }


def _refused(
  label: str, path: str, value: Any, instead: str
) -> errors.UsageError:
  return errors.UsageError(
    f'--compare: the PyTorch peers do not know config.{path}={value!r} '
    f'({label}); they {instead}'
  )


def _changed(method: base.Method) -> list[str]:
  """Returns the arguments of a method that are not at their defaults."""
  fields = type(method).__dataclass_fields__
  return sorted(
    name
    for name in registry.fields(type(method)) - set(_FACTS)
    if getattr(method, name) != fields[name].default
  )


def _network(
  config: ConfigDict, role: str, label: str
) -> dict[str, Any] | None:
  """Returns a network's name and arguments, or None if there is no network.

  Raises:
    UsageError: The peers do not support an argument.
  """
  args, known = config[role].args.to_dict(), NETWORKS[role]
  for key, value in args.items():
    if key not in known:
      instead = f'know {", ".join(known)}'
      raise _refused(label, f'{role}.args.{key}', value, instead)
  return {'name': config[role].name, **args} if config[role].name else None


def _rules(
  config: ConfigDict, wanted: case.Wanted, label: str
) -> list[tuple[str, dict[str, Any]]]:
  """Returns an optimizer, with torch's argument names, for each expression.

  An expression is searched for in the paths of parameters.

  Raises:
    UsageError: The peers do not support an optimizer.
  """
  common = config.optimizer.to_dict()
  steps_per_epoch = wanted.images // wanted.batch_size
  rules = []
  for expression, changes in (*common['rules'], ('.*', {})):
    fields = optim.of_rule(common, dict(changes))
    if fields.get('args'):
      raise _refused(label, 'optimizer.args', fields['args'], 'have none')
    if fields['name'] not in OPTIMIZERS:
      instead = f'know {", ".join(OPTIMIZERS)}'
      raise _refused(label, 'optimizer.name', fields['name'], instead)
    rate = optim.schedule(
      fields['learning_rate'], steps_per_epoch, config.epochs
    )
    kept = {
      key: fields[key]
      for key in ('name', 'momentum', 'nesterov', 'weight_decay')
    }
    rules.append((expression, {**kept, 'lr': float(rate(jnp.int32(0)))}))
  return rules


def _at(config: ConfigDict, path: str) -> Any:
  """Returns the value at a path such as 'optimizer.clip_norm'."""
  value: Any = config
  for key in path.split('.'):
    if key not in value:
      return config_lib.ADDED[path]  # a group was replaced as a whole
    value = value[key]
  return value.to_dict() if isinstance(value, ConfigDict) else value
