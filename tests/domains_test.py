"""Values outside of their domains are refused before anything is read."""

import dataclasses
import types
import typing

import numpy as np
import pytest

from kd_jax import config as config_lib
from kd_jax import domains, errors, models
from kd_jax.config import schema
from kd_jax.distill import build, optim
from kd_jax.methods import base, registry


def is_numeric(kind):
  """Whether a field's annotation is a number or a tuple of numbers."""
  if typing.get_origin(kind) in (tuple, types.UnionType):
    return any(is_numeric(part) for part in typing.get_args(kind))
  return kind in (int, float)


def numeric(cls):
  """The names of a class's fields of numbers."""
  hints = typing.get_type_hints(cls)
  names = {field.name for field in dataclasses.fields(cls)}
  return {name for name in names if is_numeric(hints[name])}


METHODS = [
  (name, field)
  for name in registry.names()
  for field in sorted(numeric(registry.method_class(name)))
]
CLASSES = {
  getattr(factory, 'func', factory) for factory in models.NETWORKS.values()
}


def test_every_number_of_every_method_and_network_has_a_domain():
  assert len(METHODS) > 50
  for name, field in METHODS:
    assert field in domains.METHODS, f'{name}: {field}'
  for cls in CLASSES:
    assert numeric(cls) <= domains.NETWORKS.keys(), cls


def test_every_number_of_the_configuration_has_a_domain():
  assert domains.KEYS.keys() <= {key.path for key in schema.KEYS}
  for key in schema.KEYS:
    value = key.default
    if isinstance(value, tuple) and value:
      value = value[0]
    if isinstance(value, int | float) and not isinstance(value, bool):
      assert key.path in domains.KEYS, key.path


@pytest.mark.parametrize('path', domains.KEYS)
def test_every_key_keeps_its_default_and_refuses_what_is_no_number(path):
  (key,) = (key for key in schema.KEYS if key.path == path)
  domains.check_key(path, key.default)
  is_tuple = isinstance(key.default, tuple)
  for value in (np.nan, np.inf, -np.inf, float('1e999'), 10**60, '', None):
    given = (value,) if is_tuple else value
    with pytest.raises(errors.ArgumentError) as refused:
      domains.check_key(path, given)
    assert str(refused.value).startswith(f'{path}={given!r}: give ')
  with pytest.raises(errors.ArgumentError, match='give'):  # one for many
    domains.check_key(path, 1 if is_tuple else (1,))


@pytest.mark.parametrize(('name', 'field'), METHODS)
def test_numbers_outside_are_refused_with_field_value_and_cure(name, field):
  domain = domains.METHODS[field]
  cls = registry.method_class(name)
  default = getattr(cls, field, 1)
  many = isinstance(default, tuple)
  wrong = [-1, np.nan, np.inf, 'a', None, True]
  if domain.least > 0 or domain.open_below:
    wrong.append(0)
  if domain.whole:
    wrong.append(2.5)
  if domain.most < np.inf:
    wrong.append(domain.most + 0.5)
  for value in wrong:
    given = (value,) if many else value
    with pytest.raises(errors.ArgumentError) as refused:
      registry.make(name, **{field: given})
    assert str(refused.value).startswith(f'{field}={given!r}: give ')
    assert domain.allowed in str(refused.value)


@pytest.mark.parametrize('name', registry.names())
def test_flags_and_taps_have_the_type_that_they_say(name):
  hints = typing.get_type_hints(registry.method_class(name))
  for field, kind in hints.items():
    if kind is bool and field in registry.fields(registry.method_class(name)):
      with pytest.raises(errors.ArgumentError, match='give True or False'):
        registry.make(name, **{field: 'no'})
  if hints.get('taps') == tuple[str, ...]:
    with pytest.raises(errors.ArgumentError, match=r"such as \('stage1',\)"):
      registry.make(name, taps='stage1')


class Own(base.WithTeacher):
  """A method of one's own, whose width is a temperature in degrees."""

  width: float = -3.0


def test_a_field_of_ones_own_may_be_anything_and_one_of_ours_may_not():
  assert Own(width=-4.0).width == -4.0
  with pytest.raises(errors.ArgumentError, match=r'temperature=0: give a num'):
    Own(temperature=0)


@pytest.mark.parametrize(
  ('key', 'value', 'message'),
  [
    ('method_args.temperature', 0.0, 'give a number above 0'),
    ('weights.kd', -1.0, 'give a number of 0 or more'),
    ('weights.kd', float('nan'), 'give a number of 0 or more'),
    (
      'weights.kd',
      {'kind': 'ramp', 'value': 1.0, 'epochs': 0, 'first': 0},
      'give a number above 0',
    ),
    ('student.args.widths', (4, 0, 8, 16), 'give a whole number, 1 or more'),
    ('teacher.args.widths', (4, -4, 8, 16), 'give a whole number, 1 or more'),
    ('optimizer.learning_rate', -0.1, 'give a number of 0 or more'),
    ('optimizer.momentum', 1.5, 'give a fraction from 0 to 1'),
    ('optimizer.weight_decay', float('inf'), 'give a number of 0 or more'),
    ('data.val_fraction', 1.5, 'give 0 to less than 1'),
    ('data.std', (0.2, 0.0, 0.2), 'give a number above 0 each'),
    ('teacher.mean', (123.7, 116.3, 103.5), 'give a fraction from 0 to 1'),
    ('teacher.expected_top1', 110.0, 'give a percentage from 0 to 100'),
    ('teacher.recipe.epochs', 0, 'give a whole number, 1 or more'),
    ('teacher.recipe.optimizer', {'learning_rate': -1.0}, 'of 0 or more'),
    ('epochs', 0, 'give a whole number, 1 or more'),
    ('eval_every', 0.0, 'give a number above 0'),
  ],
)
def test_a_key_outside_is_refused_before_data_is_read(
  key, value, message, monkeypatch
):
  monkeypatch.setattr(build, 'open_source', None)
  made = config_lib.digits()
  made.method_args = config_lib.ConfigDict({'temperature': 4.0})
  made.weights = config_lib.ConfigDict({'ce': 1.0, 'kd': 1.0})
  made.method = 'kd'
  *groups, last = key.split('.')
  group = made
  for name in groups:
    group = group[name]
  with made.ignore_type(), made.unlocked():
    group[last] = value
  with pytest.raises(errors.UsageError) as refused:
    build.build(made)
  said = str(refused.value)
  assert said.startswith(f'config.{key}'), said
  assert message in said
  assert '\n' not in said


def test_a_weight_of_a_method_of_ones_own_may_be_negative():
  schedule = optim.schedule(-1.0, 10, 2, 'hint', signed=True)
  assert float(schedule(0)) == -1.0
  with pytest.raises(errors.ArgumentError, match='hint=nan: give a finite'):
    optim.schedule(float('nan'), 10, 2, 'hint', signed=True)
