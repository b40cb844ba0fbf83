import jax
from jax import test_util
import numpy as np
import pytest

from kd_jax import errors
from kd_jax.methods import adapters
from tests import tiny
from tests.methods import vectors

RTOL = 1e-4  # through batch norm


def feats_of(s, t):
  logits = np.zeros((len(s), tiny.CLASSES), np.float32)
  return {
    'student': {'stage2': s, 'logits': logits},
    'teacher': {'stage2': t, 'logits': logits},
  }


def maps(student, teacher, size=2):
  """Random maps [size,*student] and [size,*teacher]."""
  rng = np.random.default_rng(0)
  return tuple(
    rng.normal(size=(size, *shape)).astype(np.float32)
    for shape in (student, teacher)
  )


def hint(variables, s, t):
  terms, changed = tiny.method('fitnet').apply(
    variables, feats_of(s, t), tiny.batch(len(s)), mutable=['batch_stats']
  )
  return terms['fitnet'], changed


def from_torch(kernel, transposed):
  """OIHW, or a transposed convolution's IOHW, to HWIO."""
  if transposed:
    return kernel.transpose(2, 3, 0, 1)[::-1, ::-1]
  return kernel.transpose(2, 3, 1, 0)


def test_every_spatial_case_is_the_originals():
  case, _ = vectors.load('fitnet')
  numbers = [key.removeprefix('in_fs') for key in case if 'in_fs' in key]
  assert numbers
  for n in numbers:
    s, t = vectors.nhwc(case[f'in_fs{n}']), vectors.nhwc(case[f'in_ft{n}'])
    transposed = t.shape[1] == 2 * s.shape[1]

    def tree(prefix, n=n, transposed=transposed):
      weight = case[f'{prefix}{n}_conv.weight']
      return {
        'conv': {
          'kernel': from_torch(weight, transposed),
          'bias': case[f'{prefix}{n}_conv.bias'],
        },
        'bn': {
          'scale': case[f'{prefix}{n}_bn.weight'],
          'bias': case[f'{prefix}{n}_bn.bias'],
        },
      }

    def stats(prefix, n=n):
      return {
        'bn': {
          'mean': case[f'{prefix}{n}_bn.running_mean'],
          'var': case[f'{prefix}{n}_bn.running_var'],
        }
      }

    before = {'batch_stats': stats('par')}
    mapped, _ = adapters.ConvReg().apply(
      {'params': tree('par'), **before}, s, t.shape, mutable=['batch_stats']
    )
    vectors.assert_near(mapped, vectors.nhwc(case[f'out_reg{n}']), RTOL)

    def loss(params, s, t=t, before=before):
      variables = {
        'params': {'regressor0': params},
        'batch_stats': {'regressor0': before['batch_stats']},
      }
      return hint(variables, s, t)

    (value, changed), (grads, grad_s) = jax.value_and_grad(
      loss, argnums=(0, 1), has_aux=True
    )(tree('par'), s)
    vectors.assert_near(value, case[f'out_loss{n}'], RTOL)
    wanted = {'s': vectors.nhwc(case[f'grad_fs{n}']), 'reg': tree('grad')}
    got = {'s': grad_s, 'reg': grads}
    least = 1e-2 * max(np.abs(g).max() for g in jax.tree.leaves(wanted))
    jax.tree.map(
      lambda a, b, least=least: vectors.assert_near(a, b, RTOL, least),
      got,
      wanted,
    )
    jax.tree.map(
      lambda a, b: vectors.assert_near(a, b, RTOL),
      changed['batch_stats']['regressor0'],
      stats('buf'),
    )


def test_a_regressor_that_hits_the_target_costs_nothing():
  s, _ = maps((4, 4, 3), (4, 4, 5))
  method = tiny.method('fitnet')
  made = method.init(
    jax.random.key(0), feats_of(s, np.zeros((2, 4, 4, 5))), tiny.batch(2)
  )
  variables = {c: made[c]['regressor0'] for c in ('params', 'batch_stats')}
  t, _ = adapters.ConvReg().apply(
    variables, s, (2, 4, 4, 5), mutable=['batch_stats']
  )
  value, _ = hint(made, s, t)
  assert value == 0
  far, _ = hint(made, s, t + 2)
  np.testing.assert_allclose(far, 4, rtol=1e-5)


def test_without_its_relu_a_regressor_is_signed():
  s, t = maps((4, 4, 3), (2, 2, 5))
  outputs = {}
  for relu in (True, False):
    module = adapters.ConvReg(relu=relu)
    variables = module.init(jax.random.key(0), s, t.shape)
    outputs[relu], _ = module.apply(
      variables, s, t.shape, mutable=['batch_stats']
    )
  assert outputs[False].min() < 0
  np.testing.assert_array_equal(outputs[True], np.maximum(outputs[False], 0))


@pytest.mark.parametrize(
  ('size', 'other', 'fan_in'),
  [(4, 4, 3), (4, 2, 27), (2, 4, 16 * 200), (5, 3, 27)],
)
def test_a_regressor_starts_as_torch_starts_it(size, other, fan_in):
  s, t = maps((size, size, 3), (other, other, 200))
  params = adapters.ConvReg().init(jax.random.key(0), s, t.shape)['params']
  for leaf in (params['conv']['kernel'], params['conv']['bias']):
    largest = np.abs(leaf).max() * fan_in**0.5
    assert 0.95 < largest <= 1 + 1e-6


def test_gradient_is_that_of_finite_differences():
  s, t = maps((4, 4, 2), (2, 2, 3))
  made = tiny.method('fitnet').init(
    jax.random.key(1), feats_of(s, t), tiny.batch(2)
  )
  test_util.check_grads(
    lambda x: hint(made, x, t)[0], (s,), 1, ['rev'], atol=2e-2, rtol=2e-2
  )


def test_dead_maps_have_finite_gradients():
  s, t = (np.zeros_like(x) for x in maps((4, 4, 2), (4, 4, 3)))
  made = tiny.method('fitnet').init(
    jax.random.key(0), feats_of(s, t), tiny.batch(2)
  )
  grads = jax.grad(lambda v, x: hint(v, x, t)[0], argnums=(0, 1))(made, s)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize('shape', [(2, 2, 3), (8, 4, 3), (4, 7, 3)])
def test_a_smaller_student_that_is_not_half_is_refused(shape):
  s, t = maps(shape, (7, 8, 3))
  with pytest.raises(errors.UsageError, match=r"teacher's stage2 \(7, 8, 3\)"):
    tiny.method('fitnet').init(jax.random.key(0), feats_of(s, t), tiny.batch(2))
