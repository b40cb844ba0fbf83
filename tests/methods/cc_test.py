import jax
from jax import test_util
import numpy as np
import pytest

from kd_jax import errors, losses
from tests import tiny
from tests.methods import vectors

# The cases of the contract test: arguments that make the method small.
CONTRACT = {'': {'width': 8}}


def embedded(seed, shape=(5, 3)):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def features(student, teacher):
  logits = np.zeros((len(student), tiny.CLASSES), np.float32)
  feats = {
    'student': {'pooled': student, 'logits': logits},
    'teacher': {'pooled': teacher, 'logits': logits},
  }
  return feats, {'label': np.zeros(len(logits), np.int32)}


def identity(width):
  """Parameters of embeddings that change nothing."""
  same = {'kernel': np.eye(width, dtype=np.float32), 'bias': np.zeros(width)}
  return {'student0': same, 'teacher0': same}


def term(params, student, teacher, width):
  method = tiny.method('cc', width=width)
  return method.apply({'params': params}, *features(student, teacher))['cc']


def test_the_term_and_its_gradient_are_the_originals():
  # The stored loss is that of vectors that are embedded already.
  case, _ = vectors.load('feature_losses')
  s, t = case['in_emb_s'], case['in_emb_t']
  width = s.shape[1]
  value, grad = jax.value_and_grad(term, argnums=1)(
    identity(width), s, t, width
  )
  vectors.assert_near(value, case['out_cc'])
  vectors.assert_near(grad, case['grad_cc_0'])


def test_both_embeddings_learn_and_the_teacher_does_not():
  s, t = embedded(0), embedded(1, (5, 4))
  method = tiny.method('cc', width=6)
  params = method.init(jax.random.key(0), *features(s, t))['params']
  shapes = jax.tree.map(np.shape, params)
  assert shapes == {
    'student0': {'kernel': (3, 6), 'bias': (6,)},
    'teacher0': {'kernel': (4, 6), 'bias': (6,)},
  }
  grads, grad_t = jax.grad(term, argnums=(0, 2))(params, s, t, 6)
  assert all(np.any(leaf) for leaf in jax.tree.leaves(grads))
  assert not np.any(grad_t)
  for i in ('student0', 'teacher0'):
    np.testing.assert_array_less(np.abs(params[i]['kernel']), 3**-0.5 + 1e-6)


def test_the_gradient_is_that_of_finite_differences():
  test_util.check_grads(
    losses.correlation,
    (embedded(0), embedded(1)),
    order=1,
    modes=['rev'],
    rtol=1e-2,  # float32 differences
  )


def test_equal_embeddings_cost_nothing():
  x = embedded(0)
  value, grad = jax.value_and_grad(losses.correlation)(x, x)
  assert value == 0
  assert not np.any(grad)


def test_only_neighbours_that_are_both_apart_cost():
  a = np.zeros((4, 2), np.float32)
  b = a.copy()
  b[0], b[2] = 5.0, 7.0  # no two beside each other
  assert losses.correlation(a, b) == 0
  b[1, 0] = -2.0
  np.testing.assert_allclose(losses.correlation(a, b), (5 * 2 + 2 * 7) / 3)


def test_zeros_and_one_image_have_finite_gradients():
  zeros = np.zeros((5, 3), np.float32)
  for n in (1, 5):
    value, grad = jax.value_and_grad(losses.correlation)(zeros[:n], zeros[:n])
    assert value == 0
    assert np.isfinite(grad).all()


def test_maps_are_refused():
  maps = np.zeros((2, 3, 3, 4), np.float32)
  with pytest.raises(errors.UsageError, match=r'pooled .* must be vectors'):
    term({}, maps, maps, 4)
