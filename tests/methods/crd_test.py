import itertools

import jax
from jax import test_util
import numpy as np
import pytest
from scipy import stats

from kd_jax import errors, losses
from kd_jax.methods import crd, registry
from tests import tiny
from tests.methods import vectors

# The cases of the contract test: arguments that make the method small.
CONTRACT = {'': {'width': 8, 'negatives': 4}}


def method_of(labels, **kwargs):
  classes = int(np.max(labels)) + 1
  return registry.make(
    'crd', num_classes=classes, train_labels=labels, **kwargs
  )


def feats_of(s, t):
  logits = np.zeros((len(s), tiny.CLASSES), np.float32)
  return {
    'student': {'pooled': s, 'logits': logits},
    'teacher': {'pooled': t, 'logits': logits},
  }


def batch_of(index):
  index = np.asarray(index, np.int32)
  return {'label': np.zeros(len(index), np.int32), 'index': index}


def vectors_of(*shape):
  return np.random.default_rng(0).normal(size=shape).astype(np.float32)


# 12 images of three classes of unlike size, not in order.
LABELS = np.array([2, 0, 1, 1, 0, 2, 1, 1, 0, 1, 2, 1], np.int32)


@pytest.fixture(scope='module')
def small():
  """A method, its first variables, features and a batch of 4."""
  method = method_of(LABELS, negatives=5, width=8)
  s, t = vectors_of(2, 4, 6)
  feats, batch = feats_of(s, t), batch_of([3, 0, 8, 5])
  variables = jax.jit(method.init)(jax.random.key(0), feats, batch)
  return method, variables, feats, batch


def test_two_steps_are_the_originals():
  case, meta = vectors.load('crd')
  options = meta['opt']
  method = method_of(
    np.zeros(len(case['par_memory_v1']), np.int32),
    width=case['par_memory_v1'].shape[1],
    contrast_temperature=options['nce_t'],
    momentum=options['nce_m'],
  )

  def params(prefix):
    return {
      f'{name}_embedding': {
        'kernel': case[f'{prefix.format(letter)}_linear.weight'].T,
        'bias': case[f'{prefix.format(letter)}_linear.bias'],
      }
      for name, letter in (('student', 's'), ('teacher', 't'))
    }

  memory = {
    'student': case['par_memory_v1'],
    'teacher': case['par_memory_v2'],
    'student_z': np.zeros((), np.float32),
    'teacher_z': np.zeros((), np.float32),
  }

  @jax.jit
  def loss(inputs, memory, t, batch):
    terms, changed = method.apply(
      {'params': inputs[0], 'memory': memory},
      feats_of(inputs[1], t),
      batch,
      mutable=['memory'],
    )
    return terms['crd'], changed['memory']

  steps = [key for key in case if key.startswith('in_idx_')]
  for i in range(len(steps)):
    batch = batch_of(case[f'in_idx_{i}'])
    batch['contrast_index'] = case[f'in_contrast_idx_{i}'].astype(np.int32)
    inputs = params('par_embed_{}'), case[f'in_fs_{i}']
    (value, memory), (grads, grad_s) = jax.value_and_grad(loss, has_aux=True)(
      inputs, memory, case[f'in_ft_{i}'], batch
    )
    vectors.assert_near(value, case[f'out_loss_{i}'])
    wanted = params(f'grad_embed_{{}}_{i}'), case[f'grad_fs_{i}']
    least = 1e-2 * max(np.abs(g).max() for g in jax.tree.leaves(wanted))
    jax.tree.map(
      lambda got, want, least=least: vectors.assert_near(
        got, want, least=least
      ),
      (grads, grad_s),
      wanted,
    )
    vectors.assert_near(memory['student'], case[f'buf_memory_v1_{i}'])
    vectors.assert_near(memory['teacher'], case[f'buf_memory_v2_{i}'])
    _, _, student_z, teacher_z, _ = case[f'buf_params_{i}']
    vectors.assert_near(memory['student_z'], student_z)
    vectors.assert_near(memory['teacher_z'], teacher_z)


def test_negatives_are_different_images_of_other_classes():
  index = np.arange(len(LABELS), dtype=np.int32)
  most = len(LABELS) - np.bincount(LABELS).max()
  method = method_of(LABELS, negatives=int(most))

  @jax.jit
  @jax.vmap
  def draw(key):
    return method.apply({}, index, rngs={'method': key}, method='drawn')

  drawn = np.asarray(draw(jax.random.split(jax.random.key(0), 200)))
  assert drawn.shape == (200, len(LABELS), most)
  assert (LABELS[drawn] != LABELS[index][None, :, None]).all()
  ordered = np.sort(drawn, axis=-1)
  assert (ordered[..., 1:] > ordered[..., :-1]).all()
  assert ordered.min() >= 0
  for i, label in enumerate(LABELS):  # none is left out
    assert set(drawn[:, i].ravel()) == set(np.flatnonzero(label != LABELS))


def test_a_range_can_be_drawn_whole():
  draw = jax.jit(lambda key: crd.distinct(key, np.full(6, 97), 97, 97))
  drawn = draw(jax.random.key(1))
  np.testing.assert_array_equal(
    np.sort(drawn, axis=1), np.tile(np.arange(97), (6, 1))
  )
  assert len({tuple(row) for row in np.asarray(drawn).tolist()}) == 6


def test_every_subset_is_about_equally_likely():
  rows, below, count = 30000, 6, 3
  drawn = jax.jit(
    lambda key: crd.distinct(key, np.full(rows, below), 8, count)
  )(jax.random.key(0))
  drawn = np.asarray(drawn)
  for place in range(count):
    often = np.bincount(drawn[:, place], minlength=below)
    assert stats.chisquare(often).pvalue > 1e-3
  found = dict.fromkeys(itertools.combinations(range(below), count), 0)
  for row in np.sort(drawn, axis=1).tolist():
    found[tuple(row)] += 1
  often = np.array(list(found.values())) * len(found) / rows
  np.testing.assert_allclose(often, 1, atol=0.15)


def test_more_negatives_than_there_are_are_refused():
  most = int(len(LABELS) - np.bincount(LABELS).max())
  feats = feats_of(*vectors_of(2, 4, 6))
  method = method_of(LABELS, negatives=most + 1)
  with pytest.raises(
    errors.UsageError, match=f'negatives={most + 1} .* the {most} training'
  ):
    method.init(jax.random.key(0), feats, batch_of(range(4)))
  with pytest.raises(errors.UsageError, match='negatives=0'):
    method_of(LABELS, negatives=0)


def test_negatives_are_not_refused_before_the_data_are_there():
  method = method_of(np.arange(10), negatives=300, stand_in=True)
  feats, batch = feats_of(*vectors_of(2, 4, 6)), batch_of(range(4))
  made = jax.eval_shape(method.init, jax.random.key(0), feats, batch)
  assert made['memory']['student'].shape == (10, 128)


def test_only_the_rows_of_the_batch_move_and_normalisers_stay(small):
  method, variables, feats, batch = small
  rngs = {'method': jax.random.key(0)}

  @jax.jit
  def moved(memory):
    return method.apply(
      {**variables, 'memory': memory}, feats, batch, rngs=rngs,
      mutable=['memory'],
    )[1]['memory']  # fmt: skip

  before = variables['memory']
  assert before['student_z'] == before['teacher_z'] == 0
  after = moved(before)
  again = moved(after)
  seen = np.isin(np.arange(len(LABELS)), batch['index'])
  for name in ('student', 'teacher'):
    changed = np.any(before[name] != after[name], axis=1)
    np.testing.assert_array_equal(changed, seen)
    length = np.linalg.norm(after[name][seen], axis=1)
    np.testing.assert_allclose(length, 1, rtol=1e-5)
    assert after[f'{name}_z'] > 0
    assert again[f'{name}_z'] == after[f'{name}_z']


def test_where_the_memory_is_fixed_the_loss_is_the_same(small):
  method, variables, feats, batch = small
  rngs = {'method': jax.random.key(0)}
  fixed = method.apply(variables, feats, batch, rngs=rngs)
  moving, _ = method.apply(
    variables, feats, batch, rngs=rngs, mutable=['memory']
  )
  assert fixed['crd'] == moving['crd']


def test_a_bank_starts_with_rows_of_length_one():
  method = method_of(np.arange(400) % 4, width=128, negatives=8)
  feats, batch = feats_of(*vectors_of(2, 4, 6)), batch_of(range(4))
  memory = jax.jit(method.init)(jax.random.key(0), feats, batch)['memory']
  for bank in (memory['student'], memory['teacher']):
    assert 0.98 < np.abs(bank).max() / (3 / 128) ** 0.5 <= 1
    np.testing.assert_allclose((bank**2).sum(1).mean(), 1, rtol=0.05)
  assert np.any(memory['student'] != memory['teacher'])


def test_scores_that_tell_the_own_image_apart_cost_nothing():
  scores = np.array([[1e6, 0, 0, 0], [1e6, 0, 0, 0]], np.float32)
  np.testing.assert_allclose(losses.contrastive(scores, 10), 0, atol=1e-5)


def test_scores_of_the_noise_cost_log_2_each():
  scores = np.full((2, 4), 3 / 10, np.float32)
  want = 4 * np.log(2)
  np.testing.assert_allclose(losses.contrastive(scores, 10), want, rtol=1e-5)


def test_gradient_is_that_of_finite_differences():
  scores = np.exp(vectors_of(3, 5))
  test_util.check_grads(
    lambda x: losses.contrastive(x, 10), (scores,), 1, ['rev'], rtol=1e-2
  )


def test_dead_features_have_finite_gradients(small):
  method, variables, feats, batch = small
  zeros = jax.tree.map(np.zeros_like, (variables['params'], feats))

  def loss(params, feats):
    found = method.apply(
      {**variables, 'params': params}, feats, batch,
      rngs={'method': jax.random.key(0)},
    )  # fmt: skip
    return found['crd']

  grads = jax.jit(jax.grad(loss, argnums=(0, 1)))(*zeros)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
