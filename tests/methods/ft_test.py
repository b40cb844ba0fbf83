import jax
from jax import test_util
import numpy as np

from kd_jax import losses
from tests import tiny
from tests.methods import vectors


def test_the_distance_and_its_gradient_are_the_originals():
  case, _ = vectors.load('feature_losses')
  (key,) = (k for k in case if k.startswith('grad_ft_last_'))
  i = key.removeprefix('grad_ft_last_')
  value, grad = jax.value_and_grad(losses.factor_transfer)(
    vectors.nhwc(case[f'in_s{i}']), vectors.nhwc(case[f'in_t{i}'])
  )
  vectors.assert_near(value, case['out_ft_last'])
  vectors.assert_near(grad, vectors.nhwc(case[key]))


def start(rate=0.5):
  rng = np.random.default_rng(0)
  logits = np.zeros((4, tiny.CLASSES), np.float32)
  feats = {
    name: {
      'stage3': rng.normal(size=(4, 2, 2, c)).astype(np.float32),
      'logits': logits,
    }
    for name, c in (('student', 6), ('teacher', 8))
  }
  method = tiny.method('ft', rate=rate)
  return method, method.init(jax.random.key(0), feats, tiny.batch(4)), feats


def gradients(term):
  method, variables, feats = start()

  def loss(params):
    terms, _ = method.apply(
      {**variables, 'params': params},
      feats,
      tiny.batch(4),
      mutable=['batch_stats'],
    )
    return terms[term]

  found = jax.jit(jax.grad(loss))(variables['params'])
  return {
    name: any(np.abs(g).max() > 0 for g in jax.tree.leaves(tree))
    for name, tree in found.items()
  }


def test_the_paraphraser_learns_from_the_teacher_alone():
  assert gradients('reconstruction') == {
    'paraphraser': True,
    'translator': False,
  }


def test_the_translator_learns_from_the_factors_alone():
  assert gradients('ft') == {'paraphraser': False, 'translator': True}


def test_factors_are_a_fraction_of_the_teachers_channels():
  _, variables, _ = start(rate=0.25)
  encoder = variables['params']['paraphraser']['encoder']
  assert encoder['conv2']['kernel'].shape == (3, 3, 2, 2)
  decoder = variables['params']['paraphraser']['decoder']
  assert decoder['conv2']['kernel'].shape[-1] == 8


def test_limits_and_gradients():
  rng = np.random.default_rng(0)
  a, b = rng.normal(size=(2, 3, 4, 4, 5)).astype(np.float32)
  np.testing.assert_allclose(losses.factor_transfer(a, 2 * a), 0, atol=1e-7)
  test_util.check_grads(
    lambda x: losses.factor_transfer(x, b), (a,), 1, ['rev'], rtol=1e-2
  )
  zero = jax.grad(losses.factor_transfer)(np.zeros_like(a), b)
  assert np.isfinite(zero).all()
