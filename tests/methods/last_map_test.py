"""The last map before pooling is the one after the last BatchNorm and ReLU."""

import jax
import jax.numpy as jnp
import pytest

from kd_jax import config as config_lib
from kd_jax import errors, models
from kd_jax.distill import build
from kd_jax.features import Features
from kd_jax.methods import registry
from tests.models import networks_test

FACTS = {'num_classes': 10}


def config(method, student, teacher='', **args):
  made = config_lib.digits()
  made.method, made.weights = method, config_lib.ConfigDict({})
  made.student = config_lib.ConfigDict({'name': student, 'args': {}})
  made.teacher.name, made.teacher.args = teacher, config_lib.ConfigDict()
  made.method_args = config_lib.ConfigDict(args)
  return made


@pytest.mark.parametrize(
  ('name', 'stages', 'pooled'),
  [
    ('resnet8', ('stage1', 'stage2', 'stage3'), 'stage3'),
    ('wrn_16_1', ('stage1', 'stage2', 'stage3_post'), 'stage3_post'),
    ('pyramidnet110', ('stage1', 'stage2', 'stage3_post'), 'stage3_post'),
    ('shufflenetv2', ('stage1', 'stage2'), 'stage2_post'),
    ('vgg8', ('stage1', 'stage2', 'stage3', 'stage4'), 'stage4'),
  ],
)
def test_the_last_maps_are_found_by_name_and_shape(name, stages, pooled):
  found = models.last_maps(networks_test.narrow(name))
  assert found == (stages, pooled)


@pytest.mark.parametrize('method', ['simkd', 'pics'])
def test_taps_that_are_not_named_are_chosen_from_the_networks(method):
  found = build._method(config(method, 'wrn_16_1', 'wrn_16_2'), FACTS)
  assert found.taps == found.teacher_taps == ('stage3_post',)
  found = build._method(config(method, 'resnet8', 'wrn_16_2'), FACTS)
  assert (found.taps, found.teacher_taps) == (('stage3',), ('stage3_post',))
  found = build._method(config(method, 'wrn_16_1', 'resnet8', taps=()), FACTS)
  assert (found.taps, found.teacher_taps) == (('stage3_post',), ('stage3',))


def test_an_online_methods_last_tap_is_chosen_and_a_named_one_is_kept():
  found = build._method(config('ffsd', 'wrn_16_1'), FACTS)
  assert found.taps == ('stage1', 'stage2', 'stage3_post')
  found = build._method(config('ffsd', 'resnet18'), FACTS)
  assert found.taps == ('stage1', 'stage2', 'stage3', 'stage4')
  named = ('stage1', 'stage2')
  found = build._method(config('ffsd', 'wrn_16_1', taps=named), FACTS)
  assert found.taps == named


def features(name, raw):
  """Features of a network of three stages, pre-activation where `raw`."""
  maps = {
    f'stage{i}': jnp.zeros((2, 16 >> i, 16 >> i, 4 << i)) for i in (1, 2, 3)
  }
  if raw:
    maps |= {'stage3_post': maps['stage3']}
  logits = jnp.zeros((2, 10))
  fc = {'kernel': jnp.zeros((32, 10)), 'bias': jnp.zeros(10)}
  return Features(name, {**maps, 'logits': logits, 'params': {'fc': fc}})


@pytest.mark.parametrize(
  ('method', 'argument'),
  [('simkd', 'teacher_taps'), ('pics', 'taps'), ('ffsd', 'taps')],
)
def test_a_raw_sum_that_is_named_is_refused_with_the_tap_in_its_place(
  method, argument
):
  names = ('teacher', 'student', 'leader', 'student_0', 'student_1')
  taps = {'num_classes': 10} if method == 'ffsd' else {}
  made = registry.make(method, **taps)
  batch = {'label': jnp.zeros(2, jnp.int32)}

  def init(raw):
    feats = {name: features(name, raw == name) for name in names}
    return jax.eval_shape(lambda: made.init(jax.random.key(0), feats, batch))

  network = {'simkd': 'teacher', 'pics': 'student', 'ffsd': 'leader'}[method]
  init('')
  with pytest.raises(
    errors.ArgumentError, match=f"{argument}=.*name 'stage3_post' in its place"
  ):
    init(network)
