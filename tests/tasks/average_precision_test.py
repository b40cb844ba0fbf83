"""VOC's average precision is the original's, and its rules are those it has."""

import numpy as np
import pytest

from kd_jax.tasks import average_precision as ap
from tests.methods import vectors


def case():
  """The original's objects and detections, and what it computes."""
  arrays, meta = vectors.load('dense_metrics')
  objects = ap.Objects(
    arrays['in_gt_image'],
    arrays['in_gt_label'],
    arrays['in_gt_box'],
    arrays['in_gt_difficult'].astype(bool),
  )
  detections = ap.Detections(
    *(arrays[f'in_det_{name}'] for name in ap.Detections._fields)
  )
  return objects, detections, arrays, meta['classes_detection']


def test_average_precisions_are_the_originals():
  objects, detections, arrays, classes = case()
  got = ap.average_precisions(objects, detections, classes)
  for name, want in (('ap', 'out_ap_07'), ('ap_area', 'out_ap_area')):
    # The original has -1 for a class with objects and no detection.
    want = np.maximum(arrays[want], 0)
    np.testing.assert_allclose(got[name], want, rtol=1e-9, atol=1e-12)


def test_recall_and_precision_are_the_originals():
  objects, detections, arrays, _ = case()
  got = ap.curve(
    *(type(x)(*(c[x.label == 0] for c in x)) for x in (objects, detections))
  )
  np.testing.assert_allclose(got[0], arrays['out_recall_0'], rtol=1e-9)
  np.testing.assert_allclose(got[1], arrays['out_precision_0'], rtol=1e-9)


def test_the_order_of_objects_and_detections_does_not_matter():
  rng = np.random.default_rng(0)
  image, label = rng.integers(0, 5, 40), rng.integers(0, 2, 40)
  box = rng.uniform(0, 20, (40, 4)) + np.array([0, 0, 30, 30])
  objects = ap.Objects(image, label, box, rng.random(40) < 0.2)
  near = box + rng.normal(size=(40, 4))
  detections = ap.Detections(image, label, rng.random(40), near)
  moved = (
    type(x)(*(c[order] for c in x))
    for x in (objects, detections)
    for order in [rng.permutation(40)]
  )
  want = ap.average_precisions(objects, detections, 2)
  got = ap.average_precisions(*moved, 2)
  for name in want:
    assert (want[name] > 0).all()
    np.testing.assert_allclose(got[name], want[name], rtol=1e-12)


BOX, MOVED = (0, 0, 10, 10), (0, 0, 10, 9)


def objects_of(*rows):
  """Objects of class 0 from rows of image, box and whether difficult."""
  image, box, difficult = zip(*rows, strict=True)
  return ap.Objects(
    np.array(image),
    np.zeros(len(rows), int),
    np.array(box, float),
    np.array(difficult),
  )


def detections_of(*rows):
  """Detections of class 0 from rows of image, score and box."""
  image, score, box = zip(*rows, strict=True)
  return ap.Detections(
    np.array(image),
    np.zeros(len(rows), int),
    np.array(score),
    np.array(box, float),
  )


def area_of(objects, detections):
  return ap.average_precisions(objects, detections, 1)['ap_area'][0]


def test_a_second_detection_of_an_object_is_wrong():
  objects = objects_of((0, BOX, False), (1, BOX, False))
  detections = detections_of((0, 0.9, BOX), (0, 0.8, MOVED), (1, 0.7, BOX))
  assert area_of(objects, detections) == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_difficult_objects_are_neither_found_nor_missed():
  objects = objects_of((0, BOX, False), (0, (20, 20, 30, 30), True))
  hard = (0, 0.9, (20, 20, 30, 30))
  assert area_of(objects, detections_of(hard, (0, 0.8, BOX))) == 1
  assert np.isnan(area_of(objects_of((0, BOX, True)), detections_of(hard)))


def test_an_overlap_of_a_half_is_none():
  objects = objects_of((0, BOX, False))
  half = detections_of((0, 0.9, (0, 0, 10, 5)))
  more = detections_of((0, 0.9, (0, 0, 10, 5.1)))
  assert (area_of(objects, half), area_of(objects, more)) == (0, 1)


def test_a_detection_in_another_image_is_wrong():
  assert area_of(objects_of((0, BOX, False)), detections_of((1, 0.9, BOX))) == 0


def test_of_equal_scores_the_first_counts_first():
  objects = objects_of((0, BOX, False))
  right, wrong = (0, 0.5, BOX), (1, 0.5, BOX)
  assert area_of(objects, detections_of(right, wrong)) == 1
  assert area_of(objects, detections_of(wrong, right)) == 0.5


def test_classes_without_objects_are_left_out_and_those_unfound_are_0():
  objects = objects_of((0, BOX, False))
  detections = detections_of((0, 0.9, BOX))._replace(label=np.array([1]))
  got = ap.average_precisions(objects, detections, 2)
  assert got['ap'][0] == got['ap_area'][0] == 0
  assert np.isnan(got['ap'][1])
