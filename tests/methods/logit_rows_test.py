"""Methods over logits on dense tasks: positions and priors are their rows."""

import jax
import numpy as np
import pytest

from kd_jax import boxes, errors, tasks
from kd_jax.methods import registry
from kd_jax.tasks import segmentation

METHODS = [
  ('kd', {'standardize': True}),
  ('dkd', {}),
  ('dkd', {'standardize': True}),
  ('dist', {}),
]
# Sums of floats in another order.
RTOL, ATOL = 1e-5, 1e-7
CLASSES = 5


def logits(shape, seed):
  return np.random.default_rng(seed).normal(0, 3, shape).astype(np.float32)


def scenes():
  """Scores of 3x4 positions, and labels of 9x13 pixels, a part of them void."""
  label = np.random.default_rng(0).integers(0, CLASSES, (2, 9, 13))
  label[0, :, :7], label[1, 4:] = 255, 255
  feats = {
    name: {'scores': logits((2, 3, 4, CLASSES), seed)}
    for seed, name in enumerate(('student', 'teacher'))
  }
  for network in feats.values():
    network['logits'] = np.zeros((*label.shape, CLASSES), np.float32)
  return 'scores', feats, {'label': label.astype(np.int32)}


def priors():
  """Logits of 12 priors for images with two objects, one and none."""
  corner = np.random.default_rng(0).uniform(0, 0.6, (12, 2))
  box = np.concatenate([corner + 0.2, np.full((12, 2), 0.4)], -1)
  made = np.broadcast_to(np.float32(box), (3, 12, 4))
  batch = {
    'boxes': np.array(boxes.corners(made[:, :2])),
    'label': np.array([[0, 3], [2, -1], [-1, -1]], np.int32),
    'difficult': np.zeros((3, 2), bool),
  }
  feats = {
    name: {
      'logits': logits((3, 12, CLASSES), seed),
      'offsets': np.zeros((3, 12, 4), np.float32),
      'priors': made,
    }
    for seed, name in enumerate(('student', 'teacher'))
  }
  return 'logits', feats, batch


def terms_of(task, feats, batch, key):
  """The terms of all methods that read rows, and each method's gradient."""

  @jax.jit
  def terms(feats, batch):
    def total(x, method):
      student = {**feats['student'], key: x}
      found = method.apply({}, {**feats, 'student': student}, batch)
      own = {*method.terms} - {'ce', 'kd'} or {'kd'}
      return sum(found[k] for k in own), {k: found[k] for k in own}

    methods = [registry.method_class(n)(task=task, **f) for n, f in METHODS]
    gradients = [
      jax.grad(total, has_aux=True)(feats['student'][key], method)
      for method in methods
    ]
    return [x[1] for x in gradients], [x[0] for x in gradients]

  return terms(feats, batch)


@pytest.mark.parametrize(
  ('case', 'task'), [(scenes, 'segmentation'), (priors, 'detection')]
)
def test_rows_that_do_not_count_are_as_if_they_were_not_there(case, task):
  key, feats, batch = case()
  task, whole = tasks.find(task), tasks.find('classification')
  rows = task.logit_rows(feats['student'], feats['teacher'], batch)
  counted = np.asarray(rows.counted)
  assert 0 < counted.sum() < len(counted)
  alone = {
    'student': {'logits': np.asarray(rows.student)[counted]},
    'teacher': {'logits': np.asarray(rows.teacher)[counted]},
  }
  labels = {'label': np.asarray(rows.label)[counted]}
  got, gradients = terms_of(task, feats, batch, key)
  want, of_rows = terms_of(whole, alone, labels, 'logits')
  for ours, theirs in zip(got, want, strict=True):
    assert {*ours} == {*theirs} != set()
    for term, value in theirs.items():
      np.testing.assert_allclose(ours[term], value, RTOL, ATOL, err_msg=term)
  for ours, theirs in zip(gradients, of_rows, strict=True):
    scattered = np.zeros_like(rows.student)
    scattered[counted] = theirs
    assert scattered.any()
    np.testing.assert_allclose(
      ours.reshape(scattered.shape), scattered, 1e-4, ATOL
    )


def test_without_a_labelled_pixel_nothing_is_learnt():
  key, feats, batch = scenes()
  none = {**batch, 'label': np.full_like(batch['label'], 255)}
  terms, gradients = terms_of(tasks.find('segmentation'), feats, none, key)
  assert not np.any(gradients)
  assert [{*map(float, own.values())} for own in terms] == [
    {1.0} if name == 'dist' else {0.0} for name, _ in METHODS
  ]


def test_the_label_of_a_position_is_its_nearest_pixels():
  label = np.arange(2 * 17 * 9, dtype=np.int32).reshape(2, 17, 9)
  found = segmentation.nearest(label, 5, 4)
  # Columns 0, 8/3, 16/3 and 8.
  np.testing.assert_array_equal(found, label[:, ::4][:, :, [0, 3, 5, 8]])
  np.testing.assert_array_equal(segmentation.nearest(label, 17, 9), label)


@pytest.mark.parametrize('case', [scenes, priors])
def test_networks_of_other_shapes_are_refused_in_one_line(case):
  key, feats, batch = case()
  feats['teacher'][key] = feats['teacher'][key][:, :2]
  task = tasks.find('detection' if case is priors else 'segmentation')
  with pytest.raises(errors.UsageError, match=r'networks with|same priors'):
    task.logit_rows(feats['student'], feats['teacher'], batch)
