import jax
from jax import test_util
import numpy as np
import pytest

from kd_jax import errors
from tests import tiny
from tests.methods import simkd_test, vectors

# The cases of the contract test: arguments that make the method small.
CONTRACT = {'': {'projectors': 2}}


def test_three_projectors_are_integrated_as_stored():
  """The vector is of our reconstruction: no evidence about the paper."""
  case, meta = vectors.load('pics_reconstructed')
  rtol, count = 1e-4, meta['M']  # through batch norm
  method = tiny.method('pics', projectors=count, factor=meta['factor'])
  found = [simkd_test.projector(case, str(i)) for i in range(count)]
  params = {f'projector{i}': p for i, (p, _) in enumerate(found)}
  stats = {f'projector{i}': s for i, (_, s) in enumerate(found)}
  feats = simkd_test.features(
    *(case[k] for k in ('in_fs', 'in_ft', 'par_cls_weight', 'par_cls_bias'))
  )
  batch = tiny.batch(len(case['in_fs']))

  def loss(params, student):
    own = {**feats, 'student': {**feats['student'], 'stage3': student}}
    variables = {'params': {'reused': params}, 'batch_stats': {'reused': stats}}
    terms, _ = method.apply(variables, own, batch, mutable=['batch_stats'])
    (projected, _, logits), _ = method.apply(
      variables,
      own,
      method=lambda m, f: m.reuse(f, train=True),
      mutable=['batch_stats'],
    )
    return terms['pics'], (projected, logits)

  (value, (projected, logits)), (grads, grad) = jax.jit(
    jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
  )(params, feats['student']['stage3'])
  vectors.assert_near(value, case['out_loss'], rtol)
  vectors.assert_near(projected, vectors.nhwc(case['out_mean_map']), rtol)
  vectors.assert_near(logits, case['out_logits'], rtol)
  least = vectors.largest(case, 'grad')
  for i in range(count):
    want, _ = simkd_test.projector(case, str(i), 'grad')
    vectors.assert_tree_near(grads[f'projector{i}'], want, rtol, least)
  vectors.assert_near(grad, vectors.nhwc(case['grad_fs']), rtol, least)


def start(**args):
  feats, batch = simkd_test.small(), tiny.batch(3)
  batch['label'] = batch['label'] % 5
  method = tiny.method('pics', **args)
  return method, method.init(jax.random.key(0), feats, batch), feats, batch


def test_one_projector_is_simkd_exactly():
  pics, variables, feats, batch = start(projectors=1)
  simkd = tiny.method('simkd')

  def terms(method, variables):
    def loss(params):
      found, changed = method.apply(
        {**variables, 'params': params}, feats, batch, mutable=['batch_stats']
      )
      return sum(found.values()), (list(found.values()), changed)

    predicted = method.apply(variables, feats, method='predict')
    return (
      jax.value_and_grad(loss, has_aux=True)(variables['params']),
      predicted,
    )

  jax.tree.map(
    np.testing.assert_array_equal,
    terms(pics, variables),
    terms(simkd, variables),
  )
  made = simkd.init(jax.random.key(0), feats, batch)
  jax.tree.map(np.testing.assert_array_equal, made, variables)


def test_projectors_begin_different():
  _, variables, _, _ = start(projectors=3)
  kernels = [
    variables['params']['reused'][f'projector{i}']['conv1']['kernel']
    for i in range(3)
  ]
  for i in range(3):
    assert np.abs(kernels[i] - kernels[i - 1]).max() > 1e-2


def test_the_loss_is_that_of_the_mean_not_the_mean_of_losses():
  method, variables, feats, batch = start(projectors=2)
  reused = {c: v['reused'] for c, v in variables.items()}

  def value(method, names):
    kept = {
      c: {'reused': {f'projector{i}': v[n] for i, n in enumerate(names)}}
      for c, v in reused.items()
    }
    terms, _ = method.apply(kept, feats, batch, mutable=['batch_stats'])
    return float(next(v for k, v in terms.items() if k in ('pics', 'simkd')))

  both = value(method, ['projector0', 'projector1'])
  simkd = tiny.method('simkd')
  alone = [value(simkd, [f'projector{i}']) for i in range(2)]
  assert both < np.mean(alone) - 1e-3


def test_no_projector_is_refused():
  with pytest.raises(errors.UsageError, match='projectors=0'):
    tiny.method('pics', projectors=0)


def test_the_gradient_is_that_of_finite_differences():
  feats, batch = simkd_test.small(), tiny.batch(3)
  batch['label'] = batch['label'] % 5
  method = tiny.method('pics')
  made = method.init(jax.random.key(0), feats, batch)

  def total(student):
    own = {**feats, 'student': {**feats['student'], 'stage3': student}}
    terms, _ = method.apply(made, own, batch, mutable=['batch_stats'])
    return terms['pics'] + terms['ce']

  # A loss of 4 in float32, differenced over 2e-4, is off by up to 5e-3.
  test_util.check_grads(
    total,
    (feats['student']['stage3'],),
    order=1,
    modes=['rev'],
    atol=6e-3,
    rtol=2e-2,
    eps=1e-4,
  )
