"""Detection as a task: its losses, what it counts, and its figures."""

import jax
import numpy as np
import pytest

from kd_jax import boxes, errors, features, losses, tasks
from tests import boxes_test
from tests.methods import vectors

TASK = tasks.find('detection')
supervised = jax.jit(TASK.supervised)
targets = jax.jit(boxes.targets)


@jax.jit
def counted(outputs, batch):
  """What evaluation takes of a batch."""
  return TASK.count(outputs, batch), TASK.rows(outputs, batch)


@pytest.fixture(scope='module')
def case():
  """The features of a network and a batch, from the original's arrays."""
  arrays, priors, _ = boxes_test.case()
  labels = arrays['in_labels'].astype(np.int32)
  every = np.broadcast_to(priors.boxes, (len(labels), *priors.boxes.shape))
  feats = features.Features(
    'student',
    {
      'offsets': arrays['in_offsets'],
      'logits': arrays['in_logits'],
      'priors': every,
    },
  )
  batch = {
    'boxes': arrays['in_boxes'],
    'label': labels,
    'difficult': np.zeros(labels.shape, bool),
    'mask': np.ones(len(labels), np.float32),
  }
  return feats, batch, arrays


def feed(batch, **changed):
  """The batch of the loop in training, which has no mask."""
  return {k: v for k, v in {**batch, **changed}.items() if k != 'mask'}


def test_the_supervised_loss_is_the_originals(case):
  feats, batch, arrays = case
  got = supervised(feats, feed(batch))
  vectors.assert_near(got, arrays['out_loss_box'] + arrays['out_loss_class'])


def test_difficult_objects_are_not_trained_on(case):
  feats, batch, _ = case
  hard = np.arange(6)[None, :] % 2 == np.zeros((4, 1))
  want = supervised(
    feats, feed(batch, label=np.where(hard, -1, batch['label']))
  )
  got = supervised(feats, feed(batch, difficult=hard))
  assert float(got) == float(want)


def test_kd_is_that_of_the_priors_that_the_supervised_loss_selects(case):
  feats, batch, _ = case
  teacher = {**feats, 'logits': feats['logits'][:, ::-1]}
  classes, _ = targets(batch['boxes'], batch['label'], feats['priors'])
  chosen = np.asarray(losses.multibox_selected(feats['logits'], classes))
  pair = feats['logits'][chosen], teacher['logits'][chosen]
  want = losses.kl(*pair, 4.0) * chosen.sum() / (np.asarray(classes) > 0).sum()
  distilled = jax.jit(TASK.distilled, static_argnums=3)
  got = distilled(feats, teacher, feed(batch), 4.0)
  np.testing.assert_allclose(got, want, rtol=1e-5)


def test_kd_between_different_priors_is_refused(case):
  feats, batch, _ = case
  teacher = {**feats, 'logits': feats['logits'][:, 1:]}
  with pytest.raises(errors.UsageError, match='with the same priors'):
    TASK.distilled(feats, teacher, feed(batch), 4.0)


def made():
  """A batch of 4 images with 2 objects each, and what predicts them roughly."""
  rng = np.random.default_rng(0)
  first = np.array([[4, 4], [28, 26]]) + rng.uniform(-3, 3, (4, 2, 2))
  objects = np.concatenate([first, first + np.array([11, 18])], axis=2) / 48
  batch = {
    'boxes': objects.astype(np.float32),
    'label': np.int32([[0, 1], [1, 0], [2, 2], [0, -1]]),
    'difficult': np.zeros((4, 2), bool),
    'mask': np.ones(4, np.float32),
  }
  priors = np.broadcast_to(boxes.SCENES.boxes, (4, 756, 4))
  classes, offsets = targets(batch['boxes'], batch['label'], priors)
  feats = {
    'offsets': np.asarray(offsets),
    'logits': 9 * np.eye(5, dtype=np.float32)[np.asarray(classes)],
    'priors': priors,
  }
  return feats, batch


def noisy(feats):
  """The predictions, some of which are wrong."""
  noise = 4 * np.random.default_rng(1).normal(size=feats['logits'].shape)
  return {**feats, 'logits': feats['logits'] + noise.astype(np.float32)}


def parts(feats, batch, sizes):
  """The sums and the rows of a split in batches of 4, which are padded."""
  sums, rows, start = [], [], 0
  for size in sizes:
    mask = np.float32(np.arange(4) < size)
    index = np.where(mask > 0, (start + np.arange(4)) % 4, 2)
    part = {name: value[index] for name, value in batch.items()}
    part['mask'] = mask
    outputs = TASK.outputs({name: x[index] for name, x in feats.items()})
    # What pads is an image like any other.
    of_batch = jax.device_get(counted(outputs, part))
    sums.append(of_batch[0])
    rows.append(of_batch[1])
    start += size
  return (
    jax.tree.map(lambda *x: np.sum(x, axis=0), *sums),
    jax.tree.map(lambda *x: np.concatenate(x), *rows),
  )


def test_figures_do_not_depend_on_how_a_split_is_batched():
  feats, batch = made()
  a, b = (
    TASK.figures(*parts(noisy(feats), batch, sizes))
    for sizes in ((3, 1), (2, 2))
  )
  assert a['images'] == b['images'] == 4
  assert a.keys() == {'map', 'map_area', 'loss', 'images'}
  assert 0 < a['map'] < 100
  for name, value in a.items():
    assert value == pytest.approx(b[name], rel=1e-6)


def test_the_loss_of_a_split_is_that_of_all_its_images(case):
  feats, batch, _ = case
  sums, rows = parts(feats, batch, (3, 1))
  want = supervised(feats, feed(batch))
  assert TASK.figures(sums)['loss'] == pytest.approx(float(want), rel=1e-5)
  assert 'map' in TASK.figures(sums, rows)
  assert 'map' not in TASK.figures(sums)


def test_a_network_that_predicts_the_objects_is_perfect():
  feats, batch = made()
  outputs = TASK.outputs(feats)
  _, rows = counted(outputs, batch)
  np.testing.assert_allclose(
    TASK.by_class(rows)['ap'], [100, 100, 100, np.nan], rtol=1e-12
  )
  objects = TASK.count_classes(outputs, batch)['objects']
  np.testing.assert_array_equal(objects, [3, 2, 2, 0])


def test_without_objects_the_figures_are_0_and_finite(case):
  feats, batch, _ = case
  nothing = {**batch, 'label': np.full_like(batch['label'], -1)}
  outputs = TASK.outputs(feats)
  sums, rows = counted(outputs, nothing)
  assert TASK.figures(sums, rows) == {
    'map': 0, 'map_area': 0, 'loss': 0, 'images': 4
  }  # fmt: skip


def test_what_an_export_returns_tells_the_detections(case):
  feats, batch, arrays = case
  background = 9.0 * (np.arange(arrays['in_logits'].shape[-1]) == 0)
  logits = arrays['in_logits'] + background.astype(np.float32)
  outputs = {**TASK.outputs(feats), 'logits': logits}
  detections = counted(outputs, batch)[1]['detections']
  values = TASK.deployed(outputs)
  assert values.shape == (4, 200, 6)
  kept = values[values[..., 0] >= 0]
  assert 20 < len(kept) < 4 * 200  # nothing is cut here
  again = TASK.of_deployed(values, detections.shape[1])['detections']
  assert np.count_nonzero(again[..., 0]) == np.count_nonzero(detections[..., 0])
  figures = [
    TASK.by_class({**counted(outputs, batch)[1], 'detections': x})
    for x in (np.asarray(detections), np.asarray(again))
  ]
  for name, want in figures[0].items():
    np.testing.assert_allclose(figures[1][name], want)


def test_outputs_that_are_no_numbers_are_no_detections(case):
  feats, _, arrays = case
  logits = np.array(arrays['in_logits'])
  logits[1, 7, 2] = np.nan
  values = TASK.deployed({**TASK.outputs(feats), 'logits': logits})
  finite = np.isfinite(np.asarray(values)).all(axis=(1, 2))
  assert finite.tolist() == [True, False, True, True]
  rows = TASK.of_deployed(values, logits.shape[-1] - 1)['detections']
  assert np.isnan(np.asarray(rows[1])).all()
