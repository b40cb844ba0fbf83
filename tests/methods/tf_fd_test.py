"""Tf-FD, and TFD where it is a part of it."""

import jax
from jax import test_util
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import errors, losses
from tests import tiny
from tests.methods import vectors

# The cases of the contract test.
CONTRACT = {'': {}, 'with kd': {'with_kd': True}}

TAPS = ('f1', 'f2', 'f3')


@pytest.fixture
def case():
  arrays, _ = vectors.load('tffd')
  return {
    key: np.moveaxis(value, 1, -1) if value.ndim == 4 else value
    for key, value in arrays.items()
  }


def maps(case):
  return {name: case[f'in_{name}'] for name in TAPS}


def terms(method, feats):
  logits = np.zeros((3, tiny.CLASSES), np.float32)
  batch = {'label': np.zeros(3, np.int32)}
  student = {**feats, 'logits': logits}
  return method.apply({}, {'student': student}, batch)


def assert_gradients(case, key, grads):
  wanted = {
    n: case[f'grad_{key}_{n}'] for n in TAPS if f'grad_{key}_{n}' in case
  }
  assert wanted
  least = 1e-2 * max(np.abs(value).max() for value in wanted.values())
  for name, want in wanted.items():
    vectors.assert_near(grads[name], want, least=least)


@pytest.mark.parametrize('name', ['tfd', 'tf_fd'])
def test_the_inter_layer_term_is_the_originals(case, name):
  method = tiny.method(name, taps=TAPS)
  value, grads = jax.value_and_grad(lambda f: terms(method, f)['inter'])(
    maps(case)
  )
  vectors.assert_near(value, case['out_inter_mean3'])
  assert_gradients(case, 'inter_mean3', grads)
  assert not np.any(grads['f3'])  # the deepest only teaches


@pytest.mark.parametrize('name', TAPS)
def test_the_intra_layer_term_is_the_originals(case, name):
  value, grad = jax.value_and_grad(losses.intra_layer)(case[f'in_{name}'])
  vectors.assert_near(value, case[f'out_intra_{name}'])
  vectors.assert_near(grad, case[f'grad_intra_{name}_{name}'])


def test_the_detached_variant_is_the_originals(case):
  grad = jax.grad(lambda x: losses.intra_layer(x, detach_salient=True))(
    case['in_f1']
  )
  vectors.assert_near(grad, case['grad_intra_detached_f1_f1'])


def test_the_weighted_total_is_the_originals(case):
  method = tiny.method('tf_fd', taps=TAPS)

  def total(feats):
    found = terms(method, feats)
    return 5e-4 * found['inter'] + 8e-4 * found['intra']

  value, grads = jax.value_and_grad(total)(maps(case))
  vectors.assert_near(value, case['out_total_inter5e-4_intra8e-4'])
  assert_gradients(case, 'total_inter5e-4_intra8e-4', grads)


def test_a_constant_network_costs_nothing(case):
  flat = {name: np.ones_like(value) for name, value in maps(case).items()}
  found = terms(tiny.method('tf_fd', taps=TAPS), flat)
  assert abs(found['inter']) < 1e-12
  assert abs(found['intra']) < 1e-12


def test_a_dead_map_has_a_finite_gradient():
  grad = jax.grad(losses.intra_layer)(jnp.zeros((2, 3, 3, 4)))
  assert np.isfinite(grad).all()


@pytest.mark.parametrize(('have', 'want'), [(7, 3), (5, 2), (4, 4), (6, 1)])
def test_pooling_bins_are_those_of_adaptive_pooling(have, want):
  x = np.random.default_rng(0).normal(size=(1, have, have, 2))
  got = losses.avg_pool_to(jnp.asarray(x, jnp.float32), want, want)
  for i in range(want):
    for j in range(want):
      rows = slice(i * have // want, -(-(i + 1) * have // want))
      columns = slice(j * have // want, -(-(j + 1) * have // want))
      mean = x[0, rows, columns].mean((0, 1))
      np.testing.assert_allclose(got[0, i, j], mean, rtol=1e-5, atol=1e-6)


def test_an_odd_number_of_channels_is_refused():
  feats = {'f1': np.zeros((3, 4, 4, 5), np.float32)}
  with pytest.raises(errors.UsageError, match='f1 has 5 channels'):
    terms(tiny.method('tf_fd', taps=('f1', 'f1')), feats)


def test_a_kd_teacher_is_an_option_of_tf_fd():
  plain, combined = tiny.method('tf_fd'), tiny.method('tf_fd', with_kd=True)
  assert plain.teachers == ()
  assert combined.teachers == ('teacher',)
  assert set(combined.terms) - set(plain.terms) == {'kd'}
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(2, 4, tiny.CLASSES)).astype(np.float32)
  maps = {
    f'stage{i}': rng.normal(size=(4, 4, 4, 2 * i)).astype(np.float32)
    for i in (1, 2, 3)
  }
  feats = {
    'student': {**maps, 'logits': logits[0]},
    'teacher': {'logits': logits[1]},
  }
  batch = tiny.batch(4)
  terms = combined.apply({}, feats, batch)
  want = plain.apply({}, {'student': feats['student']}, batch)
  want['kd'] = losses.kl(*logits, 4.0)
  assert set(terms) == set(want)
  for name, value in want.items():
    np.testing.assert_array_equal(terms[name], value)


def test_the_intra_layer_gradient_is_that_of_finite_differences():
  noise = np.random.default_rng(0).uniform(size=(2, 3, 3, 4))
  # The flatter a channel the more salient it is: a clear order.
  x = (1 + noise * [0.1, 1, 3, 9]).astype(np.float32)
  test_util.check_grads(losses.intra_layer, (x,), 1, ['rev'], rtol=1e-2)
