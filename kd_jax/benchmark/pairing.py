"""What a PyTorch peer must know to train what a configuration trains."""

import os
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from kd_jax import config as config_lib
from kd_jax import errors
from kd_jax.benchmark import case
from kd_jax.distill import optim, step
from kd_jax.methods import base, registry

# The methods that benchmarks/torch_methods.py has, each with the arguments it
# takes; any other argument must be at its default.
METHODS: dict[str, tuple[str, ...]] = {
  'crd': (
    'contrast_temperature', 'momentum', 'negatives', 'temperature', 'width'
  ),
  'ffsd': ('common_students', 'taps', 'temperature'),
  'fpd': ('se_reduction', 'taps', 'temperature', 'width'),
  'kd': ('temperature',),
  'ofd': ('stages', 'temperature'),
  'pics': ('factor', 'projectors', 'taps', 'temperature'),
}  # fmt: skip
# The arguments of networks, likewise.
NETWORKS = {
  'student': ('stem', 'widths'),
  'teacher': ('batch_norm', 'stem', 'widths'),
}
OPTIMIZERS = ('adam', 'sgd')
# Arguments of methods that the data or the run decide.
_FACTS = ('bn_group_size', 'dtype', 'num_classes', 'train_labels')
# What the peers do in one way only.
_DEFAULT = (
  'accumulate_steps', 'bn_group_size', 'optimizer.clip_norm', 'phases',
  'trainable', 'teacher.cache_logits', 'teacher.dtype',
)  # fmt: skip


def arguments(
  config: ConfigDict, exp: step.Experiment, wanted: case.Wanted, label: str
) -> dict[str, Any]:
  """What a peer is started with, but for its variant; JSON can hold it.

  Weights and learning rates are those of the first step.

  Args:
    config: the configuration.
    exp: its first phase's.
    wanted: what was asked for.
    label: how the configuration is called.

  Raises:
    UsageError: for what the peers do not know.
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
  """The arguments of a method that are not at their default."""
  fields = type(method).__dataclass_fields__
  return sorted(
    name
    for name in registry.fields(type(method)) - set(_FACTS)
    if getattr(method, name) != fields[name].default
  )


def _network(
  config: ConfigDict, role: str, label: str
) -> dict[str, Any] | None:
  """A network's name and arguments; None where there is none."""
  args, known = config[role].args.to_dict(), NETWORKS[role]
  for key, value in args.items():
    if key not in known:
      instead = f'know {", ".join(known)}'
      raise _refused(label, f'{role}.args.{key}', value, instead)
  return {'name': config[role].name, **args} if config[role].name else None


def _rules(
  config: ConfigDict, wanted: case.Wanted, label: str
) -> list[tuple[str, dict[str, Any]]]:
  """The optimizers by parameters' paths, as torch calls their arguments."""
  common = config.optimizer.to_dict()
  steps_per_epoch = wanted.images // wanted.batch_size
  found = []
  for expression, changes in (*common['rules'], ('.*', {})):
    fields = {**common, **dict(changes)}
    if fields['name'] not in OPTIMIZERS:
      instead = f'know {", ".join(OPTIMIZERS)}'
      raise _refused(label, 'optimizer.name', fields['name'], instead)
    rate = optim.schedule(
      fields['learning_rate'], steps_per_epoch, config.epochs
    )
    own = {
      key: fields[key]
      for key in ('name', 'momentum', 'nesterov', 'weight_decay')
    }
    found.append((expression, {**own, 'lr': float(rate(jnp.int32(0)))}))
  return found


def _at(config: ConfigDict, path: str) -> Any:
  """The value at 'optimizer.clip_norm' and the like."""
  value: Any = config
  for key in path.split('.'):
    value = value[key]
  return value.to_dict() if isinstance(value, ConfigDict) else value
