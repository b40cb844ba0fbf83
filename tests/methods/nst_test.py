import jax
from jax import test_util
import numpy as np
import pytest

from kd_jax import errors, losses
from tests.methods import stages


def test_the_term_and_its_gradients_are_the_originals():
  stages.assert_original('nst')


def test_the_gradient_is_that_of_finite_differences():
  s, t = stages.maps(0), stages.maps(1, (2, 3, 3, 5))
  test_util.check_grads(
    lambda x: losses.neuron_selectivity(x, t),
    (s,),
    order=1,
    modes=['rev'],
    rtol=1e-2,  # float32 differences
  )


def test_the_same_channels_in_another_order_and_size_cost_nothing():
  t = stages.maps(1)
  scaled = -3 * t[..., ::-1]
  value, grad = jax.value_and_grad(losses.neuron_selectivity)(scaled, t)
  assert abs(value) < 1e-6
  np.testing.assert_allclose(grad, 0, atol=1e-6)


def test_channels_active_at_different_places_cost_the_most():
  s, t = np.zeros((2, 2, 3, 3, 4), np.float32)
  s[:, 0], t[:, 2] = 5.0, 0.1
  np.testing.assert_allclose(losses.neuron_selectivity(s, t), 2, rtol=1e-5)


def test_a_dead_channel_has_a_finite_gradient():
  dead, t = stages.maps(0), stages.maps(1)
  dead[..., 1] = 0
  for x in (dead, np.zeros_like(t)):
    value, grad = jax.value_and_grad(losses.neuron_selectivity)(x, t)
    assert np.isfinite(value)
    assert np.isfinite(grad).all()


def test_no_gradient_reaches_the_teacher():
  s, t = stages.maps(0), stages.maps(1)
  grad = jax.grad(lambda t: stages.term('nst', [s], [t]))(t)
  assert not np.any(grad)


def test_vectors_are_refused():
  vector = np.zeros((2, 4), np.float32)
  with pytest.raises(errors.UsageError, match=r'stage1 \(4,\).*must be maps'):
    stages.term('nst', [vector], [vector])
