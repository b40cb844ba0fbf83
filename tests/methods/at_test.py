import jax
from jax import test_util
import numpy as np
import pytest

from kd_jax import errors, losses
from tests.methods import stages


def test_the_term_and_its_gradients_are_the_originals():
  stages.assert_original('at')


def test_attention_is_the_mean_square_over_channels():
  x = stages.maps(0)
  want = (x.astype(np.float64) ** 2).mean(axis=3)
  np.testing.assert_allclose(losses.attention_map(x), want, rtol=1e-5)


def test_the_gradient_is_that_of_finite_differences():
  s, t = stages.maps(0), stages.maps(1)
  test_util.check_grads(
    lambda x: losses.attention_transfer(x, t),
    (s,),
    order=1,
    modes=['rev'],
    rtol=1e-2,  # float32 differences
  )


def test_maps_active_at_the_same_places_cost_nothing():
  t = stages.maps(1)
  scaled = -3 * t[..., ::-1]  # other signs, sizes and order of channels
  value, grad = jax.value_and_grad(losses.attention_transfer)(scaled, t)
  assert abs(value) < 1e-10
  np.testing.assert_allclose(grad, 0, atol=1e-6)


def test_maps_active_at_different_places_cost_the_most():
  s, t = np.zeros((2, 2, 3, 3, 4), np.float32)
  s[:, 0], t[:, 2] = 5.0, 0.1
  places = s[0, ..., 0].size
  got = losses.attention_transfer(s, t)
  np.testing.assert_allclose(got, 2 / places, rtol=1e-5)


def test_a_dead_map_has_a_finite_gradient():
  dead, t = np.zeros((2, 3, 3, 4), np.float32), stages.maps(1)
  value, grad = jax.value_and_grad(losses.attention_transfer)(dead, t)
  np.testing.assert_allclose(value, 1 / 9, rtol=1e-5)
  assert np.isfinite(grad).all()


def test_no_gradient_reaches_the_teacher():
  s, t = stages.maps(0), stages.maps(1)
  grad = jax.grad(lambda t: stages.term('at', [s], [t]))(t)
  assert not np.any(grad)


def test_vectors_are_refused():
  vector = np.zeros((2, 4), np.float32)
  with pytest.raises(errors.UsageError, match=r'stage1 \(4,\).*must be maps'):
    stages.term('at', [vector], [vector])
