"""The multibox loss is the original's, and what does not count has no gradient.

`kd_jax.losses` is guarded by the shapes of its docstrings.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import boxes, losses
from tests import boxes_test
from tests.methods import vectors


def targets(objects, labels, priors):
  every = np.broadcast_to(priors.boxes, (len(labels), *priors.boxes.shape))
  return boxes.targets(objects, labels.astype(np.int32), every)


@jax.jit
def value_and_grads(offsets, logits, classes, wanted):
  def total(offsets, logits):
    box, entropy = losses.multibox(offsets, logits, classes, wanted)
    return box + entropy, (box, entropy)

  return jax.value_and_grad(total, (0, 1), has_aux=True)(offsets, logits)


def test_values_and_gradients_are_the_originals():
  arrays, priors, _ = boxes_test.case()
  objects = arrays['in_boxes'].copy()
  objects[arrays['in_labels'] < 0] = np.nan
  classes, wanted = targets(objects, arrays['in_labels'], priors)
  (_, (box, entropy)), grads = value_and_grads(
    arrays['in_offsets'], arrays['in_logits'], classes, wanted
  )
  vectors.assert_near(box, arrays['out_loss_box'])
  vectors.assert_near(entropy, arrays['out_loss_class'])
  vectors.assert_near(grads[0], arrays['grad_offsets'])
  vectors.assert_near(grads[1], arrays['grad_logits'])


def made(seed=0, images=2, priors=9, classes=4):
  rng = np.random.default_rng(seed)
  offsets = rng.normal(size=(images, priors, 4)).astype(np.float32)
  logits = rng.normal(size=(images, priors, classes)).astype(np.float32)
  return offsets, logits


def test_an_image_without_objects_changes_nothing():
  offsets, logits = made()
  classes = np.int32([[0, 2, 0, 0, 1, 0, 0, 0, 0], [0] * 9])
  wanted = np.zeros_like(offsets)
  wanted[1] = np.inf
  (total, _), grads = value_and_grads(offsets, logits, classes, wanted)
  (alone, _), _ = value_and_grads(
    offsets[:1], logits[:1], classes[:1], wanted[:1]
  )
  np.testing.assert_allclose(total, alone, rtol=1e-6)
  for grad in grads:
    assert np.abs(grad[0]).max() > 0
    assert not np.any(grad[1])


def test_without_any_object_the_loss_and_its_gradient_are_0():
  offsets, logits = made()
  classes = np.zeros((2, 9), np.int32)
  (total, _), grads = value_and_grads(
    offsets, logits, classes, np.full_like(offsets, np.nan)
  )
  assert total == 0
  assert not any(map(np.any, grads))


@pytest.mark.parametrize(
  ('positive', 'count'), [(1, 3), (2, 6), (3, 6), (9, 0)]
)
def test_three_background_priors_are_mined_for_each_positive_one(
  positive, count
):
  logits = np.zeros((1, 9, 2), np.float32)
  logits[0, :, 1] = np.float32([5, 1, 8, 0, 2, 9, 3, 7, 6])
  classes = np.zeros((1, 9), np.int32)
  classes[0, :positive] = 1
  got = np.asarray(losses.multibox_selected(logits, classes))[0]
  assert got[:positive].all()
  hardest = positive + np.argsort(-logits[0, positive:, 1])[:count]
  np.testing.assert_array_equal(
    np.flatnonzero(got[positive:]) + positive, np.sort(hardest)
  )


def test_of_equally_hard_priors_the_first_are_mined():
  classes = np.int32([[0, 0, 0, 1, 0, 0]])
  got = losses.multibox_selected(jnp.zeros((1, 6, 3)), classes)
  np.testing.assert_array_equal(got, [[1, 1, 1, 1, 0, 0]])


def test_distilled_are_the_selected_priors_alone():
  _, student = made()
  _, teacher = made(1)
  classes = np.int32([[0, 2, 0, 0, 0, 0, 0, 0, 0], [0] * 9])
  chosen = np.asarray(losses.multibox_selected(student, classes))
  assert chosen.sum() == 4
  got, grad = jax.value_and_grad(losses.multibox_kl)(
    student, teacher, classes, 2.0
  )
  want = losses.kl(student[chosen], teacher[chosen], 2.0) * 4
  np.testing.assert_allclose(got, want, rtol=1e-6)
  assert not np.any(np.asarray(grad)[~chosen])
  assert np.abs(np.asarray(grad)[chosen]).min() > 0
