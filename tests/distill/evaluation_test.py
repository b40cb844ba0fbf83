import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import models
from kd_jax.data import resident, source
from kd_jax.distill import evaluation
from kd_jax.runtime import sharding
from kd_jax.tasks import classification
from tests import few_scenes, tiny


def split(size):
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (size, 8, 8, 3)).astype(np.uint8)
  label = rng.integers(0, tiny.CLASSES, size).astype(np.int32)
  return source.Arrays(image, label)


@pytest.mark.parametrize(('batch_size', 'devices'), [(8, 1), (8, 4), (40, 2)])
def test_a_ragged_last_batch_counts_every_image_once(batch_size, devices):
  mesh = sharding.make_mesh(devices)
  images = split(37)
  info = source.Info(
    'x', tuple('0123456789'), 8, 37, 37, (0.5,) * 3, (0.2,) * 3
  )
  dataset = resident.Resident(images, info, mesh)
  network = tiny.network()
  variables = tiny.variables(network)
  exp = evaluation.alone(network)
  found = evaluation.evaluate(
    exp.method.task,
    evaluation.make(exp, dataset, mesh),
    dataset,
    batch_size,
    {'student': variables['params'], 'method': {}},
    {'student': {'batch_stats': variables['batch_stats']}, 'method': {}},
    {},
  )['student']
  normal = ((images.image / 255 - 0.5) / 0.2).astype(np.float32)
  logits = np.asarray(network.apply(variables, normal, train=False))
  order = np.argsort(-logits, axis=-1)
  right = order == images.labels[:, None]
  assert found['images'] == 37
  assert found['top1'] == pytest.approx(100 * right[:, 0].mean())
  assert found['top5'] == pytest.approx(100 * right[:, :5].any(1).mean())
  log_q = jax.nn.log_softmax(logits)[np.arange(37), images.labels]
  assert found['loss'] == pytest.approx(float(-np.mean(log_q)), rel=1e-4)


def test_equal_scores_count_once_and_nan_never():
  logits = jnp.array([[1.0, 1.0, 0.0], [jnp.nan, 0.0, 0.0], [0.0, 0.0, 0.0]])
  batch = {'label': jnp.array([1, 0, 0]), 'mask': jnp.ones(3)}
  counts = classification.count(logits, batch)
  assert int(counts['top1']) == 1  # only the last: the first class wins a tie


@pytest.mark.parametrize(('classes', 'reported'), [(3, False), (6, True)])
def test_top_5_is_reported_of_more_than_5_classes(classes, reported):
  batch = {'label': jnp.array([1, 0]), 'mask': jnp.ones(2)}
  counts = classification.count(jnp.zeros((2, classes)), batch)
  found = classification.measures(counts)
  assert ('top5' in found) is reported
  assert float(found['top1']) == 50.0


@functools.cache
def precision(batch_size, devices):
  """The figures of a detector without training on few scenes."""
  mesh = sharding.make_mesh(devices)
  scenes = few_scenes.opened_boxed()
  dataset = resident.Resident(scenes.split('test'), scenes.info, mesh)
  network = models.make('ssd48_resnet10', 10, widths=(4,) * 5)
  image = np.zeros((2, 48, 48, 3), np.float32)
  variables = dict(network.init(jax.random.key(0), image, train=False))
  exp = evaluation.alone(network)
  return evaluation.evaluate(
    exp.method.task,
    evaluation.make(exp, dataset, mesh),
    dataset,
    batch_size,
    {'student': variables['params'], 'method': {}},
    {'student': {'batch_stats': variables['batch_stats']}, 'method': {}},
    {},
  )['student']


def test_detections_of_several_devices_are_those_of_one():
  want, got = precision(10, 1), precision(8, 4)  # 10; 8 and 2 with padding
  assert got['images'] == want['images'] == few_scenes.COUNTS['test']
  assert want['map'] > 0
  for name in ('map', 'map_area', 'loss'):
    assert got[name] == pytest.approx(want[name], rel=1e-3), name
