import jax
from jax import test_util
import numpy as np
import pytest

from kd_jax import errors, losses
from tests import tiny
from tests.methods import vectors


def stored():
  case, _ = vectors.load('feature_losses')
  count = sum(key.startswith('in_ab_s') for key in case)
  maps = [
    [vectors.nhwc(case[f'in_ab_{n}{i}']) for i in range(count)] for n in 'st'
  ]
  return case, *maps


def test_the_loss_and_its_gradients_are_the_originals():
  case, student, teacher = stored()
  taps = tuple(f'stage{i}_pre' for i in range(len(student)))
  method = tiny.method('ab', taps=taps)
  logits = np.zeros((len(student[0]), tiny.CLASSES), np.float32)
  batch = tiny.batch(len(logits))

  def features(maps):
    return {**dict(zip(taps, maps, strict=True)), 'logits': logits}

  def loss(maps):
    feats = {'student': features(maps), 'teacher': features(teacher)}
    return method.apply({}, feats, batch)['ab'] * 3 / 1000

  value, grads = jax.value_and_grad(loss)(student)
  vectors.assert_near(value, case['out_ab'])
  least = vectors.largest(case, 'grad_ab')
  for i, grad in enumerate(grads):
    vectors.assert_near(grad, vectors.nhwc(case[f'grad_ab_{i}']), least=least)


def test_only_the_side_of_the_teacher_counts():
  rng = np.random.default_rng(0)
  s, t = rng.normal(size=(2, 2, 3, 3, 4)).astype(np.float32)
  value = losses.activation_boundary(s, t, 1.0)
  np.testing.assert_allclose(
    value, losses.activation_boundary(s, 5 * t, 1.0), rtol=1e-6
  )
  beyond = np.where(t > 0, 1.5, -1.5).astype(np.float32)
  assert losses.activation_boundary(beyond, t, 1.0) == 0
  assert losses.activation_boundary(-beyond, t, 1.0) > 10


def test_the_gradient_is_that_of_finite_differences():
  rng = np.random.default_rng(0)
  s, t = rng.normal(size=(2, 2, 3, 3, 4)).astype(np.float32)
  test_util.check_grads(
    lambda x: losses.activation_boundary(x, t, 1.0), (s,), 1, ['rev'], rtol=1e-2
  )


def features(side, channels):
  return {
    'stage1_pre': np.ones((2, side, side, channels), np.float32),
    'logits': np.zeros((2, tiny.CLASSES), np.float32),
  }


def test_a_connector_is_there_only_where_shapes_differ():
  method = tiny.method('ab', taps=('stage1_pre',))
  for channels, made in ((4, False), (6, True)):
    feats = {'student': features(4, 4), 'teacher': features(4, channels)}
    variables = method.init(jax.random.key(0), feats, tiny.batch(2))
    assert ('params' in variables) is made


def test_sizes_that_no_connector_bridges_are_refused():
  feats = {'student': features(3, 4), 'teacher': features(8, 4)}
  with pytest.raises(errors.UsageError, match=r'\(8, 8, 4\).*\(3, 3, 4\)'):
    tiny.method('ab', taps=('stage1_pre',)).init(
      jax.random.key(0), feats, tiny.batch(2)
    )
