"""Methods that compare maps or rows distil detectors; others are refused."""

import jax
import numpy as np
import pytest

from kd_jax import errors, models
from kd_jax.distill import build
from kd_jax.methods import registry
from kd_jax.models import read_params
from tests.cli import train_test


def config_of(method, **args):
  """The recipe of a method on a few scenes with boxes."""
  config = train_test.configuration('kd').get_config('scenes_detection')
  config.data.name = 'tests.few_scenes:opened_boxed'
  config.mesh.data, config.batch_size, config.eval_batch_size = 1, 8, 4
  config.baseline, config.method = 'off', method
  with config.unlocked():
    config.method_args = args
    terms = registry.method_class(method).terms
    config.weights = dict.fromkeys(terms, 1.0)
  return config


@pytest.mark.parametrize(
  ('method', 'args', 'taps'),
  [
    ('ofd', {'stages': (1, 2, 3, 4)}, 4),
    ('fitnet', {'taps': ('stage2',)}, 1),
    ('at', {'taps': ('stage2', 'stage3', 'stage4')}, 3),
    ('dkd', {}, 1),
  ],
)
def test_maps_or_logits_of_detectors_are_compared(method, args, taps):
  parts = build.build(config_of(method, **args))
  (phase,) = parts.phases
  assert phase.exp.method.task.name == 'detection'
  assert len(phase.exp.method.pairs()) == taps
  assert parts.traced[0].deployed.groups == ('student',)


def test_a_method_of_one_label_an_image_is_refused():
  with pytest.raises(errors.UsageError, match='is for detection: take one of'):
    build.build(config_of('simkd'))


@pytest.mark.parametrize('stage', [1, 2, 3, 4])
def test_the_margin_is_of_the_last_batch_norm_before_the_tap(stage):
  network = models.make('ssd48_resnet18', 10)
  image = jax.ShapeDtypeStruct((1, 48, 48, 3), np.float32)
  key = jax.random.key(0)
  made = jax.eval_shape(lambda x: network.init(key, x, train=False), image)
  scale, bias = read_params.last_bn(made['params'], stage)
  norm = made['params']['backbone'][f'stage{stage}_block2']['bn2']
  assert scale is norm['scale']
  assert bias is norm['bias']
