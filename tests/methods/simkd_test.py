import re

import jax
from jax import test_util
import numpy as np
import pytest

from kd_jax import errors
from tests import tiny
from tests.methods import vectors

VECTORS, _ = vectors.load('simkd')
CASES = sorted(
  {m[1] for key in VECTORS if (m := re.match(r'in_fs(\d+f\d+)$', key))}
)


def projector(case, name, prefix='par'):
  """Parameters and statistics of one projector, from torch's layout."""
  params, stats = {}, {}
  for i, (conv, bn) in enumerate(((0, 1), (3, 4), (6, 7)), 1):
    key = f'{prefix}{name}_transfer.'
    params[f'conv{i}'] = {'kernel': vectors.kernel(case[f'{key}{conv}.weight'])}
    params[f'bn{i}'] = {
      'scale': case[f'{key}{bn}.weight'],
      'bias': case[f'{key}{bn}.bias'],
    }
    if f'{key}{bn}.running_mean' in case:
      stats[f'bn{i}'] = vectors.statistics(case, f'{key}{bn}')
  return params, stats


def features(s, t, weight, bias):
  """Both networks' features of maps in torch's layout."""
  classes = len(bias)
  logits = np.zeros((len(s), classes), np.float32)
  head = {'fc': {'kernel': vectors.kernel(weight), 'bias': bias}}
  return {
    'student': {'stage3': vectors.nhwc(s), 'logits': logits},
    'teacher': {'stage3': vectors.nhwc(t), 'logits': logits, 'params': head},
  }


@pytest.mark.parametrize('name', CASES)
def test_loss_gradients_buffers_and_predictions_are_the_originals(name):
  case, rtol = VECTORS, 1e-4  # through batch norm
  method = tiny.method('simkd', factor=int(name.split('f')[1]))
  params, stats = projector(case, name)
  feats = features(
    *(case[f'{k}{name}'] for k in ('in_fs', 'in_ft')),
    *(case[f'par{name}_cls_{k}'] for k in ('weight', 'bias')),
  )
  batch = tiny.batch(len(feats['student']['stage3']))
  wrap = lambda tree: {'reused': {'projector0': tree}}  # noqa: E731

  def loss(params, student):
    own = {**feats, 'student': {**feats['student'], 'stage3': student}}
    terms, changed = method.apply(
      {'params': wrap(params), 'batch_stats': wrap(stats)},
      own,
      batch,
      mutable=['batch_stats'],
    )
    return terms['simkd'], changed['batch_stats']

  (value, moved), (grads, grad) = jax.jit(
    jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
  )(params, feats['student']['stage3'])
  vectors.assert_near(value, case[f'out_loss{name}'], rtol)
  least = max(
    vectors.largest(case, f'grad{name}_'),
    vectors.largest(case, f'grad_fs{name}'),
  )
  want, _ = projector(case, name, 'grad')
  vectors.assert_tree_near(grads, want, rtol, least)
  vectors.assert_near(grad, vectors.nhwc(case[f'grad_fs{name}']), rtol, least)
  _, buffers = projector(case, name, 'buf')
  vectors.assert_tree_near(moved['reused']['projector0'], buffers, rtol)
  variables = {'params': wrap(params)}
  trained = {**variables, 'batch_stats': wrap(stats)}
  found, _ = method.apply(
    trained, feats, method=lambda m, f: m.reuse(f, train=True), mutable=True
  )
  vectors.assert_near(found[0], vectors.nhwc(case[f'out_trans{name}']), rtol)
  vectors.assert_near(found[1], vectors.nhwc(case[f'out_target{name}']))
  vectors.assert_near(found[2], case[f'out_logits{name}'], rtol)
  evaluated = method.apply(
    {**variables, 'batch_stats': wrap(buffers)}, feats, method='predict'
  )
  assert list(evaluated) == ['student']
  vectors.assert_near(
    evaluated['student'], case[f'out_eval_logits{name}'], rtol
  )


def small():
  rng = np.random.default_rng(0)
  shapes = ((3, 6, 4, 4), (3, 8, 4, 4), (5, 8), (5,))
  return features(*(rng.normal(size=s).astype(np.float32) for s in shapes))


def test_neither_labels_nor_the_students_own_logits_reach_the_prediction():
  feats, method = small(), tiny.method('simkd')
  made = method.init(jax.random.key(0), feats, tiny.batch(3))
  before = method.apply(made, feats, method='predict')['student']
  feats['student']['logits'] = feats['student']['logits'] + 1
  after = method.apply(made, feats, method='predict')['student']
  np.testing.assert_array_equal(before, after)
  feats['teacher']['params']['fc']['bias'] += 1
  moved = method.apply(made, feats, method='predict')['student']
  np.testing.assert_allclose(moved, before + 1, rtol=1e-5, atol=1e-6)


def test_no_gradient_reaches_the_teachers_classifier():
  feats, method = small(), tiny.method('simkd')
  batch = tiny.batch(3) | {'label': np.array([0, 1, 4], np.int32)}
  made = method.init(jax.random.key(0), feats, batch)

  def ce(head):
    own = {**feats, 'teacher': {**feats['teacher'], 'params': head}}
    terms, _ = method.apply(made, own, batch, mutable=['batch_stats'])
    return terms['ce']

  grads = jax.grad(ce)(feats['teacher']['params'])
  assert not any(np.any(g) for g in jax.tree.leaves(grads))


def test_a_factor_that_does_not_divide_the_width_is_refused():
  with pytest.raises(errors.UsageError, match=r'factor=3 .* 8 channels'):
    tiny.method('simkd', factor=3).init(
      jax.random.key(0), small(), tiny.batch(3)
    )


def test_a_teacher_without_a_classifier_of_that_name_is_refused():
  feats = small()
  feats['teacher']['params'] = {'dense': {}}
  with pytest.raises(errors.UsageError, match="no layer 'fc'"):
    tiny.method('simkd').init(jax.random.key(0), feats, tiny.batch(3))


def test_the_gradient_is_that_of_finite_differences():
  feats, batch = small(), tiny.batch(3)
  batch['label'] = batch['label'] % 5
  method = tiny.method('simkd')
  made = method.init(jax.random.key(0), feats, batch)

  def total(student):
    own = {**feats, 'student': {**feats['student'], 'stage3': student}}
    terms, _ = method.apply(made, own, batch, mutable=['batch_stats'])
    return terms['simkd'] + terms['ce']

  test_util.check_grads(
    total, (feats['student']['stage3'],), 1, ['rev'], rtol=2e-2, eps=2e-4
  )
