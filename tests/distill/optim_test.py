import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import errors
from kd_jax.distill import optim


def values(spec, steps, steps_per_epoch=10, epochs=20):
  schedule = optim.schedule(spec, steps_per_epoch, epochs)
  return [float(schedule(step)) for step in steps]


def test_a_milestone_lowers_the_epoch_after_it():
  spec = {'kind': 'step', 'value': 1.0, 'milestones': (5, 8), 'factor': 0.1}
  found = values(spec, [0, 49, 50, 79, 80])
  np.testing.assert_allclose(found, [1, 1, 0.1, 0.1, 0.01], rtol=1e-6)


def test_a_number_is_constant():
  assert values(0.5, [0, 1000]) == [0.5, 0.5]


def test_a_cosine_falls_to_zero_at_the_end():
  found = values({'kind': 'cosine', 'value': 2.0}, [0, 100, 200])
  np.testing.assert_allclose(found, [2, 1, 0], atol=1e-6)


def test_a_poly_schedule_falls_with_every_step_and_counts_a_phase_before():
  spec = {'kind': 'poly', 'value': 2.0, 'power': 0.9, 'epochs': 4, 'first': 1}
  found = optim.schedule(spec, 10, 3)
  for step, share in ((0, 3 / 4), (1, 29 / 40), (29, 1 / 40), (30, 0), (35, 0)):
    np.testing.assert_allclose(found(step), 2 * share**0.9, rtol=1e-5)


def test_a_linear_schedule_stays_at_its_value():
  spec = {'kind': 'linear', 'start': 0.0, 'value': 4.0, 'epochs': 4}
  np.testing.assert_allclose(values(spec, [0, 20, 40, 99]), [0, 2, 4, 4])


def test_a_ramp_rises_by_epochs():
  spec = {'kind': 'ramp', 'value': 4.0, 'epochs': 4, 'first': 1}
  np.testing.assert_allclose(values(spec, [0, 9, 10, 35, 99]), [1, 1, 2, 4, 4])
  spec['first'] = 0
  np.testing.assert_allclose(values(spec, [0, 10, 40, 99]), [0, 1, 4, 4])


def test_warmup_rises_to_any_schedule():
  spec = {'kind': 'constant', 'value': 1.0, 'warmup_epochs': 2}
  np.testing.assert_allclose(values(spec, [0, 9, 19, 50]), [0.05, 0.5, 1, 1])


@pytest.mark.parametrize(
  ('spec', 'message'),
  [
    ({'kind': 'stpe', 'value': 1}, "did you mean 'step'"),
    ({'kind': 'cosine', 'value': 1, 'mielstones': 2}, 'mielstones'),
    ({'kind': 'step', 'value': 1}, 'lacks milestones, factor'),
  ],
)
def test_a_wrong_schedule_is_refused(spec, message):
  with pytest.raises(errors.UsageError, match=message):
    optim.schedule(spec, 10, 20)


@pytest.mark.parametrize(
  'common',
  [
    0.5,
    {'kind': 'step', 'value': 0.5, 'milestones': (5,), 'factor': 0.1},
    {'kind': 'linear', 'start': 1.0, 'value': 0.5, 'epochs': 4},
    {'kind': 'cosine', 'value': 0.5, 'warmup_epochs': 2},
    {'kind': 'poly', 'value': 0.5, 'power': 0.9, 'epochs': 9, 'first': 1},
  ],
)
def test_a_scaled_rate_follows_the_common_schedule(common):
  scaled = {'learning_rate': {'kind': 'scaled', 'factor': 0.02}}
  fields = optim.of_rule({'learning_rate': common, 'momentum': 0.9}, scaled)
  assert fields['momentum'] == 0.9
  steps = [0, 15, 39, 50, 120]
  found = values(fields['learning_rate'], steps)
  expected = [0.02 * value for value in values(common, steps)]
  np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize('more', [{}, {'factor': 'x'}, {'factor': 1, 'a': 2}])
def test_a_scaled_rate_without_its_factor_alone_is_refused(more):
  scaled = {'learning_rate': {'kind': 'scaled', **more}}
  with pytest.raises(errors.UsageError, match="give a number 'factor'"):
    optim.of_rule({'learning_rate': 0.1}, scaled)


@pytest.mark.parametrize('nesterov', [False, True])
def test_sgd_is_torchs_on_every_parameter(nesterov):
  tx = optim.transformation(
    'sgd', lambda _: 0.1, weight_decay=0.01, momentum=0.9, nesterov=nesterov
  )
  p, buffer = 2.0, None
  params = {'bn': {'bias': jnp.array(p)}}
  state = tx.init(params)
  for gradient in (0.5, 0.0, -1.0):
    grads = {'bn': {'bias': jnp.array(gradient)}}
    updates, state = tx.update(grads, state, params)
    params = {'bn': {'bias': params['bn']['bias'] + updates['bn']['bias']}}
    g = gradient + 0.01 * p
    buffer = g if buffer is None else 0.9 * buffer + g
    p -= 0.1 * (g + 0.9 * buffer if nesterov else buffer)
    np.testing.assert_allclose(params['bn']['bias'], p, rtol=1e-6)


def test_momentum_begins_anew_where_it_is_reset():
  tx = optim.transformation(
    'sgd', lambda _: 1.0, momentum=0.5, reset_momentum_at=(2,)
  )
  params = {'x': jnp.array(0.0)}
  state, found = tx.init(params), []
  for _ in range(4):
    updates, state = tx.update({'x': jnp.array(1.0)}, state, params)
    found.append(float(-updates['x']))
  np.testing.assert_allclose(found, [1, 1.5, 1, 1.5])


def test_the_first_matching_rule_decides_and_frozen_stands_still():
  tx = optim.by_path(
    [
      ('^student/fc', optim.transformation('frozen', lambda _: 0.1)),
      (
        '^student',
        optim.transformation('sgd', lambda _: 0.1, weight_decay=1.0),
      ),
    ]
  )
  params = {'student': {'fc': jnp.ones(2), 'conv': jnp.ones(2)}}
  updates, _ = tx.update(params, tx.init(params), params)
  np.testing.assert_array_equal(updates['student']['fc'], 0)
  np.testing.assert_allclose(updates['student']['conv'], -0.2, rtol=1e-6)


def test_a_parameter_without_a_rule_is_refused_by_name():
  tx = optim.by_path([('^student', optim.transformation('sgd', lambda _: 0.1))])
  with pytest.raises(errors.UsageError, match='method/gate'):
    tx.init({'method': {'gate': jnp.ones(2)}})


def test_an_unknown_optimizer_names_the_nearest():
  with pytest.raises(errors.UsageError, match='adam'):
    optim.transformation('adamm', lambda _: 0.1)
