"""Scenes are what they were composed to be, and their splits share nothing."""

import hashlib

import numpy as np
import pytest

from kd_jax.data.sets import digits, scenes


def test_a_split_has_the_objects_it_was_counted_to_have():
  whole = scenes.read('test')
  there = whole.label >= 0
  assert there.sum() == 591
  assert whole.difficult.sum() == 15
  assert np.bincount(there.sum(axis=1)).tolist() == [0, 102, 105, 93]
  assert whole.image.shape == (300, 48, 48, 3)
  assert whole.mask.shape == (300, 48, 48)
  assert [x.dtype for x in whole] == ['u1', 'u1', 'f4', 'i4', '?']
  # Pixels of images may depend on the decoder of JPEG, masks do not.
  digest = hashlib.sha256(whole.mask.tobytes()).hexdigest()
  assert digest.startswith('e107170a')


def test_a_scene_depends_on_its_split_and_number_alone():
  few = scenes.generate('test', 3)
  for got, whole in zip(few, scenes.read('test'), strict=True):
    np.testing.assert_array_equal(got, whole[:3])
  other = scenes.generate('train', 3)
  assert not np.array_equal(other.image, few.image)


def test_the_constants_are_those_of_training_scenes():
  part = scenes.generate('train', 400).image / 255
  info = scenes.INFOS['detection']
  np.testing.assert_allclose(part.mean((0, 1, 2)), info.mean, atol=0.02)
  np.testing.assert_allclose(part.std((0, 1, 2)), info.std, atol=0.02)


@pytest.mark.parametrize(
  ('task', 'classes'), [('detection', 10), ('segmentation', 11)]
)
def test_facts_are_of_a_task(task, classes):
  info = scenes.INFOS[task]
  assert (info.task, len(info.class_names)) == (task, classes)
  assert (info.num_train, info.num_test) == (3000, 300)


def test_masks_are_the_ink_in_the_boxes():
  whole = scenes.generate('test', 80)
  for mask, rows, labels in zip(
    whole.mask, whole.boxes, whole.label, strict=True
  ):
    inside = np.zeros(mask.shape, bool)
    pixels = np.round(rows * scenes.SIDE).astype(int)
    for (x1, y1, x2, y2), label in zip(pixels, labels, strict=True):
      if label >= 0:
        inside[y1:y2, x1:x2] = True
        assert (mask[y1:y2, x1:x2] == label + 1).any()
    # Only a digit's soft rim reaches out of its box.
    assert np.isin(mask[~inside], (0, scenes.VOID)).all()
    classes = set(np.unique(mask)) - {0, scenes.VOID}
    assert classes == set(labels[labels >= 0] + 1)


def test_a_box_is_tight_around_a_digit_that_is_alone():
  whole = scenes.generate('test', 80)
  alone = np.flatnonzero((whole.label >= 0).sum(axis=1) == 1)
  assert len(alone) > 10
  for k in alone:
    ink = whole.mask[k] == whole.label[k, 0] + 1
    y, x = np.nonzero(ink)
    want = x.min(), y.min(), x.max() + 1, y.max() + 1
    np.testing.assert_allclose(whole.boxes[k, 0] * 48, want, rtol=1e-6)
    assert not whole.difficult[k].any()


def test_an_object_is_difficult_where_little_of_it_is_seen():
  whole = scenes.read('test')
  image, row = np.nonzero(whole.difficult)
  for k, i in zip(image, row, strict=True):
    x1, y1, x2, y2 = np.round(whole.boxes[k, i] * 48).astype(int)
    others = np.delete(whole.boxes[k], i, axis=0) * 48
    assert any(
      min(x2, b[2]) > max(x1, b[0]) and min(y2, b[3]) > max(y1, b[1])
      for b in others
    )


def test_rows_that_pad_are_empty():
  whole = scenes.read('test')
  pads = whole.label < 0
  assert not whole.boxes[pads].any()
  assert not whole.difficult[pads].any()
  assert whole.boxes.min() >= 0
  assert whole.boxes.max() <= 1


def test_no_digit_and_no_column_of_a_photograph_is_in_both_splits(monkeypatch):
  parts = [
    {image.tobytes() for image in digits.read(split).image}
    for split in ('train', 'test')
  ]
  assert not parts[0] & parts[1]
  assert [x.shape for x in scenes.photographs()] == [(427, 640, 3)] * 2
  columns = np.broadcast_to(np.arange(640)[None, :, None], (427, 640, 3))
  monkeypatch.setattr(scenes, 'photographs', lambda: (columns, columns))
  for split, low, high in (('train', 0, 447), ('test', 480, 639)):
    rng = np.random.default_rng(0)
    made = np.stack(
      [scenes._background(rng, *scenes._COLUMNS[split]) for _ in range(200)]
    )
    # Darkened to a fifth or a half; the widest spans are nearly reached.
    spans = (made[:, 0].max(1) - made[:, 0].min(1))[:, 0] / (scenes.SIDE - 1)
    seen = made[:, 0, :, 0] / spans[:, None]
    assert low <= round(seen.min()) < low + 8
    assert high - 8 < round(seen.max()) <= high
