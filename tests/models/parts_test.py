"""What methods read from a network's parameters, for every network."""

import re

import jax
import numpy as np
import optax
import pytest

from kd_jax import errors
from kd_jax.distill import inspect
from kd_jax.models import read_params
from tests import tiny
from tests.models import networks_test


@pytest.mark.parametrize('name', networks_test.NARROW)
def test_the_reused_classifier_gives_a_networks_own_logits(name):
  found = networks_test.taps(name)
  logits = read_params.head(
    networks_test.variables(name)['params'], found['pooled']
  )
  np.testing.assert_allclose(found['logits'], logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  'name',
  [
    name
    for name in networks_test.NARROW
    if not name.startswith(('shuffle', 'densenet', 'googlenet'))
  ],
)
def test_the_margins_batch_norm_is_the_one_behind_the_pre_tap(name):
  # Where its scale and bias are 0, so is its tap, but for a shortcut's part.
  made = jax.device_get(networks_test.variables(name))
  before = networks_test.taps(name)
  count = sum(bool(re.fullmatch(r'stage\d_pre', tap)) for tap in before)
  for stage in range(1, count + 1):
    scale, bias = read_params.last_bn(made['params'], stage)
    assert scale.shape == bias.shape == before[f'stage{stage}_pre'].shape[-1:]
    changed = jax.tree.map(
      lambda x, a=scale, b=bias: x * 0 if x is a or x is b else x, made
    )
    after = networks_test.forward(name)(changed)
    moved = {tap for tap in after if (after[tap] != before[tap]).any()}
    assert f'stage{stage}_pre' in moved
    earlier = {f'stage{i}_pre' for i in range(1, stage)}
    assert not moved & earlier
    if name.startswith(('wrn', 'vgg', 'mobilenetv1', 'pyramidnet')):
      assert not after[f'stage{stage}_pre'].any()


@pytest.mark.parametrize(
  'name', ['shufflenetv1', 'shufflenetv2', 'densenet40_12', 'googlenet']
)
def test_networks_that_ofd_is_not_defined_for_give_no_margins(name):
  with pytest.raises(errors.UsageError, match='no blocks of stage 1'):
    read_params.last_bn(networks_test.variables(name)['params'], 1)


def test_a_classifier_for_other_channels_says_which_map_is_pooled():
  params = networks_test.variables('shufflenetv2')['params']
  with pytest.raises(errors.UsageError, match=r'reads 24 channels.*has 16'):
    read_params.head(params, np.zeros((1, 16), np.float32))


def shapes(method, student, teacher, **args):
  exp = tiny.experiment(
    tiny.method(method, **args),
    tx=optax.identity(),
    student=networks_test.narrow(student),
    teacher=networks_test.narrow(teacher),
  )
  return inspect.trace(exp, 32, 8).features


@pytest.mark.parametrize(
  ('student', 'teacher'),
  [
    ('wrn_16_1', 'wrn_16_1'),
    ('resnet8', 'wrn_16_1'),
    ('wrn_16_1', 'pyramidnet200'),
    ('pyramidnet110', 'pyramidnet200'),
    ('mobilenetv1', 'resnet8'),
    ('shufflenetv2', 'vgg8'),
    ('vgg8', 'mobilenetv2'),
  ],
)
def test_ofd_joins_the_first_two_stages_of(student, teacher):
  shapes('ofd', student, teacher, stages=(1, 2))


@pytest.mark.parametrize(
  ('teacher', 'tap'),
  [
    ('resnet8', 'stage3'),
    ('wrn_16_1', 'stage3_post'),
    ('pyramidnet200', 'stage3_post'),
    ('vgg8', 'stage4'),
    ('mobilenetv1', 'stage3'),
    ('mobilenetv2', 'stage2_post'),
    ('shufflenetv1', 'stage2'),
    ('shufflenetv2', 'stage2_post'),
    ('densenet40_12', 'stage3_post'),
    ('googlenet', 'stage2'),
  ],
)
def test_the_classifier_is_reused_of(teacher, tap):
  args = {'taps': ('stage2',), 'teacher_taps': (tap,), 'factor': 1}
  shapes('simkd', 'shufflenetv2', teacher, **args)
