import jax
from jax import test_util
import numpy as np
import pytest

from kd_jax import errors, losses
from tests import tiny
from tests.methods import vectors

HALVES = [losses.relational_distance, losses.relational_angle]


def embedded(seed, shape=(5, 3)):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def terms(student, teacher, **kwargs):
  """The method's terms of the pooled vectors, the default tap."""
  method = tiny.method('rkd', **kwargs)
  logits = np.zeros((len(student), tiny.CLASSES), np.float32)
  feats = {
    'student': {'pooled': student, 'logits': logits},
    'teacher': {'pooled': teacher, 'logits': logits},
  }
  batch = {'label': np.zeros(len(logits), np.int32)}
  return method.apply({}, feats, batch)


@pytest.mark.parametrize(
  ('key', 'weights'),
  [
    ('rkd_distance_only', {'rkd_distance': 1.0}),
    ('rkd_angle_only', {'rkd_angle': 1.0}),
    ('rkd', {'rkd_distance': 25.0, 'rkd_angle': 50.0}),
  ],
)
def test_the_terms_and_their_gradients_are_the_originals(key, weights):
  case, _ = vectors.load('feature_losses')

  def total(student):
    found = terms(student, case['in_emb_t'])
    return sum(weight * found[name] for name, weight in weights.items())

  value, grad = jax.value_and_grad(total)(case['in_emb_s'])
  vectors.assert_near(value, case[f'out_{key}'])
  vectors.assert_near(grad, case[f'grad_{key}_0'])


def test_several_taps_are_summed():
  s, t = embedded(0), embedded(1)
  once, twice = terms(s, t), terms(s, t, taps=('pooled', 'pooled'))
  for name in ('rkd_distance', 'rkd_angle'):
    np.testing.assert_allclose(twice[name], 2 * once[name], rtol=1e-6)


@pytest.mark.parametrize('loss', HALVES)
def test_the_gradient_is_that_of_finite_differences(loss):
  s, t = embedded(0), embedded(1, (5, 4))
  test_util.check_grads(
    lambda x: loss(x, t),
    (s,),
    order=1,
    modes=['rev'],
    rtol=1e-2,  # float32 differences
  )


@pytest.mark.parametrize('loss', HALVES)
def test_a_rotated_shifted_and_scaled_space_costs_nothing(loss):
  t = embedded(0)
  rotation, _ = np.linalg.qr(embedded(1, (3, 3)))
  s = (3 * t @ rotation + embedded(2, (1, 3))).astype(np.float32)
  value, grad = jax.value_and_grad(loss)(s, t)
  assert abs(value) < 1e-10
  np.testing.assert_allclose(grad, 0, atol=1e-5)


def test_angles_are_those_at_each_corner_of_a_triangle():
  corners = np.array([[0, 0], [2, 0], [0, 2]], np.float32)
  half = 0.5**0.5  # of 45 degrees; the third corner's cosine is 0
  # Each corner has two sides, with themselves 1 and with each other, twice.
  cosines = [1, 1, 0, 0, 1, 1, half, half, 1, 1, half, half]
  want = np.square(cosines).sum() / 2 / 3**3  # against cosines of 0
  same = np.zeros((3, 1), np.float32)
  got = losses.relational_angle(corners, same)
  np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize('loss', HALVES)
def test_images_that_coincide_have_finite_gradients(loss):
  twice = embedded(0)
  twice[1] = twice[0]
  for x in (twice, np.zeros_like(twice), twice[:1]):
    value, grad = jax.value_and_grad(loss)(x, embedded(1)[: len(x)])
    assert np.isfinite(value)
    assert np.isfinite(grad).all()


def test_no_gradient_reaches_the_teacher():
  grad = jax.grad(lambda t: sum(terms(embedded(0), t).values()))(embedded(1))
  assert not np.any(grad)


def test_maps_are_refused():
  maps = np.zeros((2, 3, 3, 4), np.float32)
  with pytest.raises(errors.UsageError, match=r'pooled .* must be vectors'):
    terms(maps, maps)
