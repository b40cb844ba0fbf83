import jax
from jax import test_util
import numpy as np
import pytest

from kd_jax import errors, losses
from tests import tiny
from tests.methods import vectors


def embedded(seed, shape=(5, 3)):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def term(student, teacher, **kwargs):
  """The method's term of the pooled vectors, the default tap."""
  method = tiny.method('pkt', **kwargs)
  logits = np.zeros((len(student), tiny.CLASSES), np.float32)
  feats = {
    'student': {'pooled': student, 'logits': logits},
    'teacher': {'pooled': teacher, 'logits': logits},
  }
  batch = {'label': np.zeros(len(logits), np.int32)}
  return method.apply({}, feats, batch)['pkt']


def test_the_term_and_its_gradient_are_the_originals():
  case, _ = vectors.load('feature_losses')
  value, grad = jax.value_and_grad(term)(case['in_emb_s'], case['in_emb_t'])
  vectors.assert_near(value, case['out_pkt'])
  vectors.assert_near(grad, case['grad_pkt_0'])


def test_several_taps_are_summed():
  s, t = embedded(0), embedded(1)
  twice = term(s, t, taps=('pooled', 'pooled'))
  np.testing.assert_allclose(twice, 2 * term(s, t), rtol=1e-6)


def test_the_gradient_is_that_of_finite_differences():
  s, t = embedded(0), embedded(1, (5, 4))
  test_util.check_grads(
    lambda x: 100 * losses.probabilistic_transfer(x, t),
    (s,),
    order=1,
    modes=['rev'],
    rtol=1e-2,
    eps=2e-3,  # smaller steps are lost in float32
  )


def test_a_rotated_space_of_other_lengths_costs_nothing():
  t = embedded(0)
  rotation, _ = np.linalg.qr(embedded(1, (3, 3)))
  lengths = np.arange(1, 1 + len(t))[:, None]
  s = (lengths * t @ rotation).astype(np.float32)
  value, grad = jax.value_and_grad(losses.probabilistic_transfer)(s, t)
  assert abs(value) < 1e-7
  np.testing.assert_allclose(grad, 0, atol=1e-6)


def test_opposite_images_are_no_neighbours():
  opposite = np.array([[1, 0], [-1, 0]], np.float32)
  alike = np.array([[2, 0], [3, 0]], np.float32)
  # Against rows of 1/2, an image is sure of itself: log 2 in two of four.
  got = losses.probabilistic_transfer(alike, opposite)
  np.testing.assert_allclose(got, np.log(2) / 2, rtol=1e-5)


def test_a_dead_vector_has_a_finite_gradient():
  dead = embedded(0)
  dead[1] = 0
  for x in (dead, np.zeros_like(dead)):
    value, grad = jax.value_and_grad(losses.probabilistic_transfer)(
      x, embedded(1)
    )
    assert np.isfinite(value)
    assert np.isfinite(grad).all()
    assert not np.any(grad[1])


def test_no_gradient_reaches_the_teacher():
  assert not np.any(jax.grad(term, argnums=1)(embedded(0), embedded(1)))


def test_maps_are_refused():
  maps = np.zeros((2, 3, 3, 4), np.float32)
  with pytest.raises(errors.UsageError, match=r'pooled .* must be vectors'):
    term(maps, maps)
