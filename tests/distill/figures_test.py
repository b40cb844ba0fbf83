"""What a step says beside its losses: training accuracy and learning rate."""

import jax.numpy as jnp
import pytest

from kd_jax import tasks
from kd_jax.distill import build, figures
from kd_jax.features import Features
from kd_jax.methods import base
from tests import tiny
from tests.training import recovery_test


class Sharper(base.Method):
  """Deploys other logits than its student's."""

  def predict(self, feats):
    return {'student': 2.0 * feats['student']['logits']}


def headline(method, *networks):
  feats = {
    name: Features(name, {'logits': jnp.eye(tiny.CLASSES)[jnp.array(guesses)]})
    for name, guesses in networks
  }
  batch = {'label': jnp.array([3, 1, 4, 1])}
  return figures.headline(method, {'params': {}}, feats, batch)


def test_the_training_accuracy_is_that_of_the_deployed_network():
  students = ('student_0', [3, 1, 4, 1]), ('leader', [3, 0, 0, 0])
  found = headline(tiny.method('ffsd'), *students, ('student_1', [0] * 4))
  assert {name: float(x) for name, x in found.items()} == {'top1': 25.0}
  networks = ('teacher', [3, 1, 4, 1]), ('student', [3, 1, 4, 0])
  assert float(headline(tiny.method('kd'), *networks)['top1']) == 75.0


def test_logits_that_are_computed_to_predict_have_no_training_accuracy():
  assert headline(Sharper(), ('student', [3, 1, 4, 1])) == {}


def test_a_metric_that_needs_the_whole_split_is_none_of_a_batch():
  count, priors = 2, 5
  feats = {
    'offsets': jnp.zeros((count, priors, 4)),
    'logits': jnp.zeros((count, priors, 4)),
    'priors': jnp.full((count, priors, 4), 0.5),
  }
  batch = {
    'boxes': jnp.full((count, 1, 4), 0.5),
    'label': jnp.zeros((count, 1), jnp.int32),
    'difficult': jnp.zeros((count, 1), bool),
  }
  method = base.Method(task=tasks.find('detection'))
  networks = {'student': Features('student', feats)}
  assert figures.headline(method, {'params': {}}, networks, batch) == {}


def phases(**optimizer):
  config = recovery_test.config_of()
  with config.ignore_type():
    config.phases = {'a': {'epochs': 1, 'learning_rate': 0.5}}
    for key, value in optimizer.items():
      config.optimizer[key] = value
  facts = {'num_classes': tiny.CLASSES}
  return build.phases_of(config, facts, 4)


def test_the_learning_rate_is_that_of_parameters_without_a_rule():
  rate = {'kind': 'linear', 'start': 0.0, 'value': 1.0, 'epochs': 1}
  rules = (('fc', {'learning_rate': 9.0}),)
  first, last = phases(learning_rate=rate, rules=rules)
  assert [float(first.exp.learning_rate(step)) for step in (0, 3)] == [0.5, 0.5]
  # A schedule counts from its phase's start, as the optimizer does.
  found = [float(last.exp.learning_rate(step)) for step in (4, 6, 9)]
  assert found == pytest.approx([0.0, 0.5, 1.0])


def test_frozen_parameters_have_no_learning_rate():
  assert phases(name='frozen')[-1].exp.learning_rate is None
