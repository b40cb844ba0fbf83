"""Phases: what is frozen stands still, and a run resumes in any of them."""

import re

import jax
import numpy as np
import pytest

from kd_jax import config as config_lib
from kd_jax import errors, pytrees
from kd_jax.distill import build, jitted
from kd_jax.runtime import run_dir
from kd_jax.training import run
from tests import tiny
from tests.cli import train_test
from tests.training.end_to_end_test import leaves

STEPS = 4  # of an epoch, and of the first phase


def config_of(name, teacher=''):
  """A configuration's digits recipe in phases of 4 and 8 steps."""
  config = train_test.configuration(name).get_config('digits')
  config.data.train_size, config.batch_size = 80, 20
  config.epochs, config.checkpoint_every = 2, 1.0
  config.checkpoint_seconds = 0.0
  config.mesh.data = 1
  config.student.args.widths = (4, 4, 8, 16)
  config.teacher.name = 'resnet8'
  config.teacher.args.widths = (8, 8, 16, 32)
  config.teacher.path = str(teacher)
  config.teacher.recipe.epochs = 1
  config.teacher.recipe.batch_size = 20
  config.teacher.expected_top1 = 0.0
  config.phases.initialise.epochs = 1
  return config


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
  """The folder of a trained teacher."""
  folder = tmp_path_factory.mktemp('phases') / 'teacher'
  run.train(config_lib.of_teacher(config_of('ab')), run_dir.Folder(folder))
  return folder


def train(config, folder, steps=None):
  """Trains, to the end or for so many steps."""
  calls = iter(range(1, 10**6))
  stop = (lambda: next(calls) == steps) if steps else (lambda: False)
  try:
    run.train(config, run_dir.Folder(folder), should_stop=stop)
  except run.Interrupted:
    assert steps
  return leaves(folder / 'checkpoints')[1]


def collections(state):
  """Leaves of parameters and other collections by 'group/.../leaf'."""
  found = {}
  for name, leaf in state.items():
    kind, _, path = name.partition('/')
    group, *rest = path.split('/')
    if kind == 'params':
      found['/'.join((group, *rest))] = leaf
    elif kind == 'model_state':  # 'group/collection/...'
      found['/'.join((group, *rest[1:]))] = leaf
  return found


def first_state(config):
  """The leaves of a run before its first step."""
  parts = build.build(config)
  exp = parts.phases[0].exp
  batch = tiny.batch(config.batch_size)
  frozen = {  # only shapes matter
    name: dict(net.init(jax.random.key(0), batch['image'], train=True))
    for name, net in exp.teachers.items()
  }
  init = jitted.init(exp, parts.mesh)  # compiled as the run compiles it
  state = init(np.int32(config.seed), frozen, batch)
  return {
    pytrees.path_name(path): np.asarray(leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(state)
  }


@pytest.mark.parametrize(
  ('name', 'frozen', 'moving'),
  [
    ('ab', ('student/fc/',), ('student/conv1/', 'student/bn1/', 'method/')),
    ('ft', ('student/', 'method/translator/'), ('method/paraphraser/',)),
  ],
)
def test_what_is_frozen_in_a_phase_is_bit_equal_after_it(
  tmp_path, teacher, name, frozen, moving
):
  config = config_of(name, teacher)
  after = collections(train(config, tmp_path / 'stopped', steps=STEPS))
  before = collections(first_state(config))
  for group in frozen:
    names = [n for n in after if n.startswith(group)]
    assert names
    for leaf in names:
      np.testing.assert_array_equal(after[leaf], before[leaf], err_msg=leaf)
  for group in moving:
    names = [n for n in after if n.startswith(group)]
    assert any(np.any(after[n] != before[n]) for n in names), group


@pytest.mark.drill
def test_a_run_resumed_at_a_phases_end_equals_one_in_one_go(tmp_path, teacher):
  config = config_of('ab', teacher)
  train(config, tmp_path / 'stopped', steps=STEPS)
  resumed = train(config, tmp_path / 'stopped')
  whole = train(config, tmp_path / 'whole')
  assert set(resumed) == set(whole)
  for name, leaf in whole.items():
    np.testing.assert_array_equal(resumed[name], leaf, err_msg=name)
  result = run_dir.Folder(tmp_path / 'whole').read('result.json')
  assert (result['steps'], result['epochs']) == (12, 3)


def test_a_phase_begins_with_its_own_weights_rates_and_optimizer(
  tmp_path, teacher
):
  config = config_of('ab', teacher)
  config.phases.initialise.learning_rate = 0.25
  ramp = {'kind': 'ramp', 'value': 8.0, 'epochs': 4, 'first': 1}
  with config.ignore_type():
    config.weights.kd = ramp  # and a phase may replace a schedule
  config.phases.initialise.weights.kd = 0.5
  first, last = build.build(config).phases
  assert (first.first, first.last, last.first, last.last) == (0, 4, 4, 12)
  assert float(first.exp.weights['ce'](0)) == 0
  assert float(last.exp.weights['ce'](4)) == 1
  assert float(first.exp.weights['kd'](3)) == 0.5
  # A schedule's epochs of four steps count from the phase's first step.
  assert [float(last.exp.weights['kd'](n)) for n in (4, 8)] == [2.0, 4.0]
  params = {'student': {'conv1': np.ones(3, np.float32)}}
  grads = jax.tree.map(np.ones_like, params)
  for phase, rate in ((first, 0.25), (last, 0.05)):
    tx = phase.exp.tx
    updates, _ = tx.update(grads, tx.init(params), params)
    decay = config.optimizer.weight_decay
    np.testing.assert_allclose(
      updates['student']['conv1'], -rate * (1 + decay), rtol=1e-5
    )
  assert first.exp.trained('method/connector1/conv/kernel')
  assert not first.exp.trained('student/fc/kernel')
  assert not last.exp.trained('method/connector1/conv/kernel')
  after = train(config, tmp_path / 'stopped', steps=STEPS)
  # Both phases train the convolution; only the last the classifier.
  for leaf in ('student/conv1/kernel', 'student/fc/bias'):
    traces = [v for n, v in after.items() if n.endswith(f'trace/{leaf}')]
    assert traces, leaf
    assert not any(np.any(trace) for trace in traces), leaf
  counts = [v for n, v in after.items() if n.endswith('/count')]
  assert counts
  assert not any(np.any(count) for count in counts)


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('epoch', 3, "'epoch'; did you mean 'epochs'"),
    ('epochs', 0, 'initialise.epochs=0: give a whole number, 1 or more'),
    ('epochs', 0.5, 'initialise.epochs=0.5: give a whole number, 1 or more'),
    ('trainable', ('^studnet/',), "'^studnet/'"),
    ('trainable', ('(',), 'no regular expression'),
    ('trainable', '^method/', "trainable='^method/': give regular expressions"),
    ('trainable', (1,), 'initialise.trainable=(1,): give regular expressions'),
    ('weights', {'abb': 1.0}, "'abb'; did you mean 'ab'"),
  ],
)
def test_an_impossible_phase_is_refused(field, value, message):
  config = config_of('ab')
  with config.unlocked(), config.ignore_type():
    config.phases.initialise[field] = value
  with pytest.raises(errors.UsageError, match=re.escape(message)):
    build.build(config)


def test_a_phase_says_its_epochs():
  config = config_of('ab')
  del config.phases.initialise.epochs
  with pytest.raises(errors.UsageError, match='initialise lacks epochs'):
    build.build(config)
