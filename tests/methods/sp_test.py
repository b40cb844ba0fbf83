import jax
from jax import test_util
import numpy as np
import pytest

from kd_jax import errors, losses
from tests import tiny
from tests.methods import vectors


def maps(seed, shape=(4, 3, 3, 2)):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def term(student, teacher, **kwargs):
  """The method's term of the last maps, the default tap."""
  method = tiny.method('sp', **kwargs)
  logits = np.zeros((len(student), tiny.CLASSES), np.float32)
  feats = {
    'student': {'stage3': student, 'logits': logits},
    'teacher': {'stage3': teacher, 'logits': logits},
  }
  batch = {'label': np.zeros(len(logits), np.int32)}
  return method.apply({}, feats, batch)['sp']


def test_the_term_and_its_gradient_are_the_originals():
  case, _ = vectors.load('feature_losses')
  (key,) = (key for key in case if key.startswith('grad_sp_last_'))
  last = key.removeprefix('grad_sp_last_')
  value, grad = jax.value_and_grad(term)(
    vectors.nhwc(case[f'in_s{last}']), vectors.nhwc(case[f'in_t{last}'])
  )
  vectors.assert_near(value, case['out_sp_last'])
  vectors.assert_near(grad, vectors.nhwc(case[key]))


def test_several_taps_are_summed():
  s, t = maps(0), maps(1)
  twice = term(s, t, taps=('stage3', 'stage3'))
  np.testing.assert_allclose(twice, 2 * term(s, t), rtol=1e-6)


def test_the_gradient_is_that_of_finite_differences():
  s, t = maps(0), maps(1, (4, 2, 2, 5))
  test_util.check_grads(
    lambda x: losses.similarity_preserving(x, t),
    (s,),
    order=1,
    modes=['rev'],
    rtol=1e-2,  # float32 differences
  )


def test_a_rotated_and_scaled_space_costs_nothing():
  t = maps(0)
  flat = t.reshape(len(t), -1)
  rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(18, 18)))
  s = (3 * flat @ rotation).astype(np.float32).reshape(t.shape)
  value, grad = jax.value_and_grad(losses.similarity_preserving)(s, t)
  assert abs(value) < 1e-10
  np.testing.assert_allclose(grad, 0, atol=1e-6)


def test_images_alike_to_the_one_and_unlike_to_the_other_cost_as_they_differ():
  alike, unlike = np.ones((4, 1, 1, 4)), np.eye(4)[:, None, None, :]
  # Rows of 1/2 against rows of the identity: each differs by 1 from it.
  got = losses.similarity_preserving(alike, unlike)
  np.testing.assert_allclose(got, 1 / 4, rtol=1e-6)


def test_dead_maps_have_finite_gradients():
  dead, t = maps(0), maps(1)
  dead[1] = 0
  for x in (dead, np.zeros_like(t)):
    value, grad = jax.value_and_grad(losses.similarity_preserving)(x, t)
    assert np.isfinite(value)
    assert np.isfinite(grad).all()


def test_no_gradient_reaches_the_teacher():
  assert not np.any(jax.grad(term, argnums=1)(maps(0), maps(1)))


def test_vectors_are_refused():
  vector = np.zeros((2, 4), np.float32)
  with pytest.raises(errors.UsageError, match=r'stage3 \(4,\).*must be maps'):
    term(vector, vector)
