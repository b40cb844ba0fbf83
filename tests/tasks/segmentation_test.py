import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import errors, losses, tasks
from kd_jax.distill import evaluation
from kd_jax.losses import dense
from kd_jax.runtime import sharding
from kd_jax.tasks import base, segmentation
from tests.methods import vectors

TASK = tasks.find('segmentation')
CASE, _ = vectors.load('dense_metrics')
CLASSES = len(CASE['out_seg_confusion'])
LABELS = CASE['in_seg_label'].astype(np.int32)
LOGITS = np.asarray(jax.nn.one_hot(CASE['in_seg_prediction'], CLASSES))


def batch(labels=LABELS, mask=None):
  mask = np.ones(len(labels)) if mask is None else np.asarray(mask)
  return {'label': labels, 'mask': mask.astype(np.float32)}


def counted(logits=LOGITS, labels=LABELS, mask=None):
  return TASK.count(logits, batch(labels, mask))


def figures(*sums):
  return TASK.figures(evaluation.total(sums))


def test_it_is_a_task_by_name():
  task: base.Task = TASK
  assert task.headline == ('miou', 'mIoU')
  assert hash(task) == hash(segmentation.Segmentation())


def test_the_confusion_matrix_and_the_figures_are_the_originals():
  sums = counted()
  assert sums['confusion'].dtype == jnp.int32
  np.testing.assert_array_equal(sums['confusion'], CASE['out_seg_confusion'])
  found = figures(sums)
  for name in ('miou', 'accuracy', 'class_accuracy', 'fwiou'):
    want = 100 * CASE[f'out_seg_{name}']
    np.testing.assert_allclose(found[name], want, rtol=1e-12)
  assert found['images'] == len(LABELS)
  assert found['pixels'] == (LABELS != dense.VOID).sum()


def test_traced_sums_give_the_same_figures():
  traced = jax.jit(lambda logits: TASK.figures(counted(logits)))(LOGITS)
  for name, value in figures(counted()).items():
    np.testing.assert_allclose(traced[name], value, rtol=1e-6)


def test_batches_are_added_before_the_mean_over_classes():
  parts = [counted(LOGITS[i], LABELS[i]) for i in (slice(2), slice(2, None))]
  found, want = figures(*parts), figures(counted())
  for name, value in want.items():
    # Sums of 700 float32 in another order.
    np.testing.assert_allclose(found[name], value, rtol=1e-5)


def test_the_mean_over_classes_is_not_that_of_batches():
  logits = jax.nn.one_hot(np.array([[[0, 0]], [[0, 1]]]), 2)
  labels = np.array([[[0, 0]], [[0, 0]]])
  parts = [counted(logits[i], labels[i]) for i in (slice(1), slice(1, None))]
  # Class 0 is right at 3 of 4 pixels, class 1 is only predicted.
  assert figures(*parts)['miou'] == 100 * (3 / 4 + 0) / 2
  assert [figures(part)['miou'] for part in parts] == [100, 25]


def test_padding_counts_nowhere():
  found = counted(mask=np.arange(len(LABELS)) % 2 == 0)
  want = counted(LOGITS[::2], LABELS[::2])
  np.testing.assert_array_equal(found['confusion'], want['confusion'])
  np.testing.assert_allclose(found['loss'], want['loss'], rtol=1e-6)
  assert found['images'] == len(LABELS[::2])


def test_a_pixel_without_a_class_counts_nowhere():
  moved = np.where(LABELS == dense.VOID, -1, LABELS)
  logits = np.where((LABELS == dense.VOID)[..., None], 7 * LOGITS, LOGITS)
  found, want = counted(logits, moved), counted()
  jax.tree.map(np.testing.assert_array_equal, found, want)


def test_the_loss_is_the_mean_over_pixels():
  want = losses.masked_cross_entropy(LOGITS, LABELS)
  np.testing.assert_allclose(figures(counted())['loss'], want, rtol=1e-6)


def test_a_pixel_with_nan_counts_as_wrong():
  logits = np.where(np.arange(CLASSES) == 1, np.nan, LOGITS)
  found = counted(logits)
  assert not np.diagonal(found['confusion']).any()
  assert found['confusion'].sum() == (LABELS != dense.VOID).sum()


def test_a_class_that_is_nowhere_is_left_out_and_one_only_predicted_is_0():
  sums = evaluation.total([TASK.count_classes(LOGITS, batch())])
  matrix = CASE['out_seg_confusion']
  np.testing.assert_array_equal(sums['pixels'], matrix.sum(axis=1))
  np.testing.assert_array_equal(sums['predicted'], matrix.sum(axis=0))
  np.testing.assert_array_equal(sums['correct'], matrix.diagonal())
  found = segmentation.ious(sums)
  assert found[3] == 0
  assert np.isnan(found[5])
  np.testing.assert_allclose(np.nanmean(found), figures(counted())['miou'])


def test_without_a_labelled_pixel_the_figures_are_0():
  found = figures(counted(labels=np.full_like(LABELS, dense.VOID)))
  images = found.pop('images')
  assert images == len(LABELS)
  assert not any(found.values())


def test_sums_of_many_batches_are_exact():
  many = {'confusion': np.full((2, 2), 2**30 + 1, np.int32)}
  total = evaluation.total([many] * 1000)['confusion']
  np.testing.assert_array_equal(total, np.full((2, 2), 1000 * (2**30 + 1)))


def test_four_devices_count_as_one():
  logits, labels = np.repeat(LOGITS, 4, axis=0), np.repeat(LABELS, 4, axis=0)
  given = batch(labels, np.arange(len(labels)) % 3 > 0)
  results = []
  for devices in (1, 4):
    mesh = sharding.make_mesh(devices)
    whole, split = sharding.replicated(mesh), sharding.batched(mesh)
    count = jax.jit(
      TASK.count, in_shardings=(split, split), out_shardings=whole
    )
    results.append(jax.device_get(count(logits, given)))
  one, four = results
  np.testing.assert_array_equal(one['confusion'], four['confusion'])
  # Sums of 2,000 float32 in another order.
  np.testing.assert_allclose(one['loss'], four['loss'], rtol=1e-5)


def test_what_is_supervised_is_logits_and_what_is_distilled_is_scores():
  scores, other = np.random.default_rng(0).normal(size=(2, 5, 3, 4, CLASSES))
  student = {'logits': LOGITS, 'scores': scores}
  found = TASK.supervised(student, batch())
  assert found == losses.masked_cross_entropy(LOGITS, LABELS)
  found = TASK.distilled(student, {'scores': other}, batch(), 2.0)
  assert found == losses.kl_of_positions(scores, other, 2.0)


def test_scores_of_other_sides_are_refused_with_both_shapes():
  student, teacher = (
    {'scores': np.zeros((2, side, 3, 4), np.float32)} for side in (5, 6)
  )
  message = r"student's scores \(5, 3, 4\) and the teacher's \(6, 3, 4\) must"
  with pytest.raises(errors.UsageError, match=message):
    TASK.distilled(student, teacher, batch(), 2.0)
