"""Boxes give what SSD's original code gives, and padded rows change nothing."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import boxes, errors
from tests.methods import vectors

match, targets = jax.jit(boxes.match), jax.jit(boxes.targets)
detect = jax.jit(boxes.detect, static_argnames=('top', 'least', 'threshold'))


def case():
  """The arrays of the original, its priors, and its description."""
  arrays, meta = vectors.load('dense_ssd_boxes')
  config = meta['small']
  priors = boxes.Priors(
    size=config['min_dim'],
    steps=tuple(config['steps']),
    least=tuple(config['min_sizes']),
    most=tuple(config['max_sizes']),
    ratios=tuple(map(tuple, config['aspect_ratios'])),
  )
  return arrays, priors, meta


def test_priors_are_the_originals():
  arrays, priors, meta = case()
  assert priors.sides == tuple(meta['small']['feature_maps'])
  vectors.assert_near(priors.boxes, arrays['out_priors'])
  vectors.assert_near(boxes.SSD300.boxes, arrays['out_priors_voc300'])
  assert boxes.SSD300.sides == (38, 19, 10, 5, 3, 1)
  assert boxes.SSD300.anchors == (4, 6, 6, 6, 4, 4)


def test_priors_of_unequal_lengths_are_refused():
  with pytest.raises(errors.UsageError, match='of as many maps'):
    boxes.Priors(48, (4, 8), (12,), (18,), ((2,),))


def test_corner_and_centre_form_are_inverse():
  priors = boxes.SCENES.boxes
  vectors.assert_near(boxes.centred(boxes.corners(priors)), priors)


def test_overlaps_are_the_originals():
  arrays, priors, _ = case()
  objects = arrays['in_boxes'][2][arrays['in_labels'][2] >= 0]
  got = boxes.iou(objects, boxes.corners(priors.boxes))
  vectors.assert_near(got, arrays['out_jaccard_image_2'])


def test_boxes_without_area_overlap_nothing():
  point = np.full((1, 4), 0.5, np.float32)
  np.testing.assert_array_equal(boxes.iou(point, point), np.zeros((1, 1)))


def test_matching_and_coding_are_the_originals():
  arrays, priors, _ = case()
  # Padded rows may hold anything.
  objects, labels = arrays['in_boxes'].copy(), arrays['in_labels']
  objects[labels < 0] = np.nan
  every = np.broadcast_to(priors.boxes, (len(labels), *priors.boxes.shape))
  classes, offsets = targets(objects, labels.astype(np.int32), every)
  np.testing.assert_array_equal(classes, arrays['out_match_labels'])
  vectors.assert_near(offsets, arrays['out_match_offsets'])


def test_of_two_objects_with_the_same_best_prior_the_later_has_it():
  priors = np.array([[0.3, 0.3, 0.2, 0.2], [0.8, 0.8, 0.2, 0.2]], np.float32)
  objects = np.array([[0.2, 0.2, 0.4, 0.4]] * 2, np.float32)
  classes, _ = match(objects, np.array([4, 2], np.int32), priors)
  np.testing.assert_array_equal(classes, [3, 0])


def test_an_objects_best_prior_is_its_own_below_the_threshold():
  priors = np.array([[0.3, 0.3, 0.2, 0.2], [0.8, 0.8, 0.2, 0.2]], np.float32)
  objects = np.array([[0.0, 0.0, 0.25, 0.25]], np.float32)
  classes, matched = match(objects, np.array([6], np.int32), priors)
  np.testing.assert_array_equal(classes, [7, 0])
  np.testing.assert_array_equal(matched, np.repeat(objects, 2, axis=0))


def test_in_an_image_without_objects_all_is_background_with_offsets_0():
  every = boxes.SCENES.boxes[None]
  classes, offsets = targets(
    np.full((1, 3, 4), np.nan, np.float32), np.full((1, 3), -1, np.int32), every
  )
  assert not classes.any()
  # The prior is coded in itself: rounding alone.
  np.testing.assert_allclose(offsets, 0, atol=1e-4)


def test_decoding_is_the_originals_and_undoes_coding():
  arrays, priors, _ = case()
  got = boxes.decode(arrays['in_detect_offsets'], priors.boxes[None])
  vectors.assert_near(got, arrays['out_decoded'])
  again = boxes.encode(got, priors.boxes[None])
  vectors.assert_near(again, arrays['in_detect_offsets'])


def test_detections_are_the_originals():
  arrays, _, meta = case()
  how = meta['detect']
  scores = jax.nn.softmax(arrays['in_detect_logits'])[..., 1:]
  got = detect(
    arrays['out_decoded'],
    scores,
    top=how['top_k'],
    least=how['score'],
    threshold=how['nms'],
  )
  vectors.assert_near(got, arrays['out_detections'][:, 1:])


def test_the_strongest_detections_of_all_classes_have_their_class():
  arrays, _, _ = case()
  detections = arrays['out_detections'][:, 1:]
  _, classes, rows, _ = detections.shape
  got = np.asarray(boxes.strongest(detections, 30))
  assert got.shape == (4, 30, 6)
  for i, image in enumerate(got):
    want = np.sort(detections[i, ..., 0].ravel())[::-1][:30]
    np.testing.assert_array_equal(image[:, 1], want)
    for label, *row in image:
      if label >= 0:
        assert (detections[i, int(label)] == np.float32(row)).all(1).any()
      else:
        assert not any(row)
  whole = boxes.strongest(detections, 10_000)
  assert whole.shape == (4, classes * rows, 6)
  assert np.asarray(whole)[..., 0].min() == -1


def suppressed(objects, scores, threshold):
  """Greedy suppression, object by object."""
  kept = []
  for i in np.argsort(-scores, kind='stable'):
    overlaps = [
      float(boxes.iou(objects[[i]], objects[[j]])[0, 0]) for j in kept
    ]
    if scores[i] > 0 and all(overlap <= threshold for overlap in overlaps):
      kept.append(i)
  return kept


def test_suppression_is_greedy():
  rng = np.random.default_rng(0)
  first = rng.uniform(0, 0.6, (12, 2))
  objects = np.concatenate([first, first + 0.35], axis=1).astype(np.float32)
  scores = np.sort(rng.uniform(0.1, 1, 12))[::-1].astype(np.float32)
  scores[-2:] = 0
  want = suppressed(objects, scores, 0.3)
  got = boxes.keep(objects, scores, 0.3)
  np.testing.assert_array_equal(np.flatnonzero(got), want)
  assert 3 < len(want) < 10


def test_a_class_has_no_more_detections_than_there_are_priors():
  objects = jnp.array([[[0.0, 0.0, 0.1, 0.1], [0.5, 0.5, 0.9, 0.9]]])
  scores = jnp.array([[[0.2], [jnp.nan]]])
  got = detect(objects, scores)
  assert got.shape == (1, 1, 2, 5)
  np.testing.assert_allclose(got[0, 0, 0], [0.2, 0, 0, 0.1, 0.1])
  assert not got[0, 0, 1].any()


@pytest.mark.parametrize('priors', [boxes.SSD300, boxes.SCENES])
def test_priors_are_laid_out_by_map_row_column_and_shape(priors):
  start = 0
  maps = zip(priors.sides, priors.anchors, priors.steps, strict=True)
  for side, anchors, step in maps:
    part = priors.boxes[start : start + side * side * anchors]
    grid = part.reshape(side, side, anchors, 4)
    for i, j in itertools.product((0, side - 1), repeat=2):
      want = np.minimum((np.array([j, i]) + 0.5) * step / priors.size, 1)
      np.testing.assert_allclose(grid[i, j, 0, :2], want, rtol=1e-6)
    start += len(part)
  assert start == len(priors.boxes)
