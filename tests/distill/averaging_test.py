"""The moving average of what is trained."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kd_jax.distill import averaging, step
from tests import tiny


def test_the_average_follows_its_recurrence_with_the_warm_up():
  values = np.random.default_rng(0).normal(size=(40, 3))
  average = {'student': {'params': {'w': jnp.asarray(values[0], jnp.float32)}}}
  want, decay = values[0], 0.7
  for number, value in enumerate(values[1:]):
    params = {'student': {'w': jnp.asarray(value, jnp.float32)}}
    average = averaging.updated(
      average, decay, jnp.int32(number), params, {'student': {}}
    )
    kept = min(decay, (1 + number) / (10 + number))
    want = kept * want + (1 - kept) * value
  found = average['student']['params']['w']
  np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-6)


def test_what_does_not_change_is_its_own_average():
  value = jnp.float32(0.1)
  params, state = {'student': {'w': value}}, {'student': {}}
  average = averaging.start(params, state)
  for number in range(20):
    average = averaging.updated(average, 0.9, jnp.int32(number), params, state)
  assert average['student']['params']['w'] == value


def test_statistics_are_averaged_and_banks_are_not():
  params = {'student': {'w': jnp.ones(2)}, 'method': {}}
  state = {
    'student': {'batch_stats': {'mean': jnp.ones(2)}},
    'method': {'bank': {'rows': jnp.ones(5)}},
  }
  average = averaging.start(params, state)
  assert 'bank' not in average['method']
  moved = jax.tree.map(lambda x: x * 3, state)
  average = averaging.updated(average, 0.5, jnp.int32(0), params, moved)
  _, others = averaging.collections(average, moved)
  # The first decay is 1/10: 0.1 * 1 + 0.9 * 3.
  mean = others['student']['batch_stats']['mean']
  np.testing.assert_allclose(mean, 2.8, rtol=1e-6)
  np.testing.assert_array_equal(others['method']['bank']['rows'], 3)


@pytest.fixture(scope='module')
def experiment():
  return tiny.experiment(tiny.method('ce'), optax.sgd(0.1))


def jaxpr(exp):
  seed, batch = jnp.int32(0), tiny.batch()
  state = jax.eval_shape(lambda b: step.init(exp, seed, {}, b), batch)
  run = lambda state, b: step.train_step(exp, seed, state, {}, b)  # noqa: E731
  return state, jax.make_jaxpr(run)(state, batch)


def test_an_average_changes_nothing_else_and_without_it_the_state_is_as_before(
  experiment,
):
  state, off = jaxpr(experiment)
  assert state.average == {}
  averaged, on = jaxpr(experiment._replace(ema=0.9))
  count = len(jax.tree.leaves(averaged.average))
  assert count == len(jax.tree.leaves((state.params, state.model_state)))
  # A multiplication and an addition for each array are all that is added.
  names = [
    collections.Counter(e.primitive.name for e in j.jaxpr.eqns)
    for j in (on, off)
  ]
  assert names[0]['mul'] - names[1]['mul'] == count
  few = {'convert_element_type', 'div', 'max'}  # of the share
  added = (names[0] - names[1]).keys() - few
  assert added == {'mul', 'add', 'sub'}
  assert names[1] <= names[0]
  leaves = len(jax.tree.leaves(state))
  assert len(off.jaxpr.outvars) + count == len(on.jaxpr.outvars)
  assert len(off.jaxpr.invars) == leaves + len(jax.tree.leaves(tiny.batch()))
