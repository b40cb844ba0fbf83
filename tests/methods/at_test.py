import jax
from jax import test_util
import numpy as np
import pytest

from kd_jax import errors, losses
from tests import tiny
from tests.methods import vectors


def maps(seed, shape=(2, 3, 3, 4)):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def term(student, teacher, taps):
  """The method's term where stage i of each network is its i-th map."""
  method = tiny.method('at', taps=taps)
  logits = np.zeros((len(student[0]), tiny.CLASSES), np.float32)
  feats = {
    name: {**dict(zip(taps, found, strict=True)), 'logits': logits}
    for name, found in (('student', student), ('teacher', teacher))
  }
  batch = {'label': np.zeros(len(logits), np.int32)}
  return method.apply({}, feats, batch)['at']


def test_the_term_and_its_gradients_are_the_originals():
  case, _ = vectors.load('feature_losses')
  stages = range(len([key for key in case if key.startswith('grad_at_')]))
  student = [vectors.nhwc(case[f'in_s{i}']) for i in stages]
  teacher = [vectors.nhwc(case[f'in_t{i}']) for i in stages]
  taps = tuple(f'stage{i + 1}' for i in stages)
  value, grads = jax.value_and_grad(term)(student, teacher, taps)
  vectors.assert_near(value, case['out_at'])
  wants = [vectors.nhwc(case[f'grad_at_{i}']) for i in stages]
  least = 1e-2 * max(np.abs(want).max() for want in wants)
  for got, want in zip(grads, wants, strict=True):
    vectors.assert_near(got, want, least=least)


def test_attention_is_the_mean_square_over_channels():
  x = maps(0)
  want = (x.astype(np.float64) ** 2).mean(axis=3)
  np.testing.assert_allclose(losses.attention_map(x), want, rtol=1e-5)


def test_the_gradient_is_that_of_finite_differences():
  s, t = maps(0), maps(1)
  test_util.check_grads(
    lambda x: losses.attention_transfer(x, t),
    (s,),
    order=1,
    modes=['rev'],
    rtol=1e-2,  # float32 differences
  )


def test_maps_active_at_the_same_places_cost_nothing():
  t = maps(1)
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
  dead, t = np.zeros((2, 3, 3, 4), np.float32), maps(1)
  value, grad = jax.value_and_grad(losses.attention_transfer)(dead, t)
  np.testing.assert_allclose(value, 1 / 9, rtol=1e-5)
  assert np.isfinite(grad).all()


def test_no_gradient_reaches_the_teacher():
  grad = jax.grad(lambda t: term([maps(0)], [t], ('stage1',)))(maps(1))
  assert not np.any(grad)


def test_vectors_are_refused():
  vector = np.zeros((2, 4), np.float32)
  with pytest.raises(errors.UsageError, match=r'stage1 \(4,\).*must be maps'):
    term([vector], [vector], ('stage1',))
