import jax
from jax import test_util
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from kd_jax import errors, losses
from tests import tiny
from tests.methods import vectors


def oihw(kernel):
  return kernel.transpose(3, 2, 0, 1)


def feats_of(students, teachers):
  """Maps by tap of both networks, logits of zeros."""
  size = len(next(iter(students.values())))
  logits = np.zeros((size, tiny.CLASSES), np.float32)
  return {
    'student': {**students, 'logits': logits},
    'teacher': {**teachers, 'logits': logits},
  }


def random_maps(*shape):
  return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def term(params, feats, taps=('stage1',)):
  batch = tiny.batch(len(feats['student']['logits']))
  method = tiny.method('vid', taps=taps)
  return method.apply({'params': params}, feats, batch)['vid']


def started(feats, taps=('stage1',)):
  batch = tiny.batch(len(feats['student']['logits']))
  method = tiny.method('vid', taps=taps)
  return jax.jit(method.init)(jax.random.key(0), feats, batch)['params']


def test_value_and_every_gradient_are_the_originals():
  case, _ = vectors.load('feature_losses')
  s, t = vectors.nhwc(case['in_s1']), vectors.nhwc(case['in_t1'])
  params = {
    'log_scale0': case['par_vid_log_scale'],
    'predictor0': {
      f'conv{i + 1}': {
        'kernel': case[f'par_vid_regressor.{2 * i}.weight'].transpose(
          2, 3, 1, 0
        )
      }
      for i in range(3)
    },
  }

  @jax.jit
  @jax.value_and_grad
  def loss(inputs):
    return term(inputs[0], feats_of({'stage1': inputs[1]}, {'stage1': t}))

  value, (grads, grad_s) = loss((params, s))
  vectors.assert_near(value, case['out_vid_stage1'])
  pairs = [
    (grad_s, vectors.nhwc(case['grad_vid_stage1_1'])),
    (grads['log_scale0'], case['grad_vid_log_scale']),
  ]
  for i in range(3):
    got = oihw(grads['predictor0'][f'conv{i + 1}']['kernel'])
    pairs.append((got, case[f'grad_vid_regressor.{2 * i}.weight']))
  least = 1e-2 * max(np.abs(want).max() for _, want in pairs)
  for got, want in pairs:
    vectors.assert_near(got, want, least=least)


def test_the_loss_is_the_negative_log_likelihood():
  mean, target = random_maps(2, 2, 3, 3, 4)
  variance = np.array([0.1, 1.0, 5.0, 30.0], np.float32)
  want = -stats.norm(mean, np.sqrt(variance)).logpdf(target).mean()
  got = losses.variational(mean, target, variance) + np.log(2 * np.pi) / 2
  np.testing.assert_allclose(got, want, rtol=1e-5)


def test_the_best_variance_is_the_mean_squared_error():
  mean, target = random_maps(2, 2, 3, 3, 4)
  best = np.square(mean - target).mean(axis=(0, 1, 2))
  grad = jax.grad(losses.variational, argnums=2)(mean, target, best)
  np.testing.assert_allclose(grad, 0, atol=1e-6)


def test_every_variance_starts_as_given():
  feats = feats_of(
    {'stage1': random_maps(2, 4, 4, 3)}, {'stage1': random_maps(2, 4, 4, 6)}
  )
  scale = started(feats)['log_scale0']
  variance = jax.nn.softplus(scale) + 1e-5
  np.testing.assert_allclose(variance, np.full(6, 5.0), rtol=1e-6)


def test_taps_are_added():
  maps = {'stage1': random_maps(2, 4, 4, 3), 'stage2': random_maps(2, 2, 2, 5)}
  feats = feats_of(maps, {k: v[:, ::-1] for k, v in maps.items()})
  both = ('stage1', 'stage2')
  params = started(feats, both)
  alone = [
    term(
      {
        'log_scale0': params[f'log_scale{i}'],
        'predictor0': params[f'predictor{i}'],
      },
      feats,
      (tap,),
    )
    for i, tap in enumerate(both)
  ]
  np.testing.assert_allclose(term(params, feats, both), sum(alone), rtol=1e-5)


def test_gradient_is_that_of_finite_differences():
  mean, target = random_maps(2, 2, 2, 2, 3)
  variance = jnp.array([0.5, 1.0, 3.0])
  test_util.check_grads(
    lambda m, v: losses.variational(m, target, v),
    (mean, variance),
    1,
    ['rev'],
    atol=1e-2,
    rtol=1e-2,
  )


def test_dead_maps_have_finite_gradients():
  feats = feats_of(
    {'stage1': np.zeros((2, 4, 4, 3))}, {'stage1': np.zeros((2, 4, 4, 6))}
  )
  grads = jax.grad(term, argnums=(0, 1))(started(feats), feats)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize(('variance', 'least'), [(1.0, 2.0), (1.0, 0.0)])
def test_a_variance_below_the_least_is_refused(variance, least):
  with pytest.raises(errors.UsageError, match='variance='):
    tiny.method('vid', variance=variance, least_variance=least)
