import re

import jax
from jax import test_util
import numpy as np
import pytest

from kd_jax import errors, losses
from tests import tiny
from tests.methods import vectors


def test_the_loss_and_its_gradients_are_the_originals():
  case, _ = vectors.load('pefd')
  names = sorted({m[0] for k in case if (m := re.match(r'par\d+', k))})

  def tree(prefix):
    return {
      f'projector{name[3:]}': {
        'kernel': case[f'{prefix}{name[3:]}_linear.weight'].T,
        'bias': case[f'{prefix}{name[3:]}_linear.bias'],
      }
      for name in names
    }

  method = tiny.method('pefd', projectors=len(names))
  logits = np.zeros((len(case['in_fs']), 10), np.float32)
  batch = tiny.batch(len(logits))

  def loss(params, student):
    feats = {
      'student': {'pooled': student, 'logits': logits},
      'teacher': {'pooled': case['in_ft'], 'logits': logits},
    }
    return method.apply({'params': params}, feats, batch)['pefd']

  value, (grads, grad) = jax.value_and_grad(loss, argnums=(0, 1))(
    tree('par'), case['in_fs']
  )
  vectors.assert_near(value, case['out_loss'])
  least = vectors.largest(case, 'grad')
  vectors.assert_near(grad, case['grad_fs'], least=least)
  vectors.assert_tree_near(grads, tree('grad'), least=least)


def test_direction_counts_and_length_does_not():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(4, 6)).astype(np.float32)
  np.testing.assert_allclose(losses.cosine_distance(x, 3 * x), 0, atol=1e-6)
  np.testing.assert_allclose(losses.cosine_distance(x, -x), 2, rtol=1e-6)


def test_the_gradient_is_that_of_finite_differences():
  rng = np.random.default_rng(0)
  a, b = rng.normal(size=(2, 4, 6)).astype(np.float32)
  test_util.check_grads(
    lambda x: losses.cosine_distance(x, b), (a,), 1, ['rev'], rtol=1e-2
  )


def test_a_dead_student_has_a_finite_gradient():
  grad = jax.grad(losses.cosine_distance)(np.zeros((2, 3)), np.ones((2, 3)))
  assert np.isfinite(grad).all()


def test_maps_are_refused():
  feats = {
    'student': {'stage3': np.zeros((2, 4, 4, 3))},
    'teacher': {'stage3': np.zeros((2, 4, 4, 3))},
  }
  with pytest.raises(errors.UsageError, match='must be vectors'):
    tiny.method('pefd', taps=('stage3',)).init(
      jax.random.key(0), feats, tiny.batch(2)
    )


def test_no_projector_is_refused():
  with pytest.raises(errors.UsageError, match='projectors=0'):
    tiny.method('pefd', projectors=0)
