"""Methods of the user's own, and what does not fit, in one line."""

from typing import ClassVar

import pytest

from kd_jax import config as config_lib
from kd_jax import errors, losses
from kd_jax.distill import build
from kd_jax.methods import base, registry


class Hint(base.Method):
  """README's example: the taps of both networks must have one shape."""

  terms: ClassVar = {'ce': ('student',), 'hint': ('student',)}
  tap: str = 'pooled'

  def __call__(self, feats, batch):
    student, teacher = feats['student'], feats['teacher']
    return {
      'ce': losses.cross_entropy(student['logits'], batch['label']),
      'hint': losses.mse(student[self.tap], teacher[self.tap]),
    }


class TwoTeachers(Hint):
  teachers: ClassVar = ('teacher', 'assistant')


def config(name):
  made = config_lib.digits()
  made.method = f'tests.methods.registry_test:{name}'
  made.weights = config_lib.ConfigDict({'ce': 1.0, 'hint': 1.0})
  return made


def test_a_class_of_the_users_own_is_a_method():
  assert registry.method_class(config('Hint').method).__name__ == 'Hint'
  with pytest.raises(errors.UsageError, match='name the class too'):
    registry.method_class('tests.methods.registry_test')


def test_taps_that_do_not_fit_are_one_line_with_both_shapes():
  with pytest.raises(errors.UsageError) as refused:
    build.build(config('Hint'))
  said = str(refused.value)
  assert '\n' not in said
  assert 'registry_test.py, line ' in said
  assert '(32, 32), (32, 64)' in said


def test_the_same_method_on_networks_of_one_width_is_built():
  made = config('Hint')
  made.teacher.args.widths = made.student.args.widths
  assert build.build(made).exp.method.terms.keys() == {'ce', 'hint'}


def test_several_teachers_are_one_line():
  with pytest.raises(errors.UsageError, match='would be 2 teachers of method'):
    build.build(config('TwoTeachers'))
