"""Two processes count of dense tasks what one process counts."""

import sys

import numpy as np
import pytest

from kd_jax import tasks
from kd_jax.distill import build, inspect
from kd_jax.runtime import run_dir
from kd_jax.training import restore, splits, teacher
from tests import few_scenes
from tests.training import dense_worker, processes_test

pytestmark = pytest.mark.drill

WORKER = (sys.executable, '-m', 'tests.training.dense_worker')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A folder with a run of each task, by two processes with a device each."""
  place = tmp_path_factory.mktemp('dense')
  processes_test.of_two(place, WORKER, devices=1)
  return place


def counts(folder, name):
  """What both processes counted in a run."""
  return [dict(np.load(folder / f'{name}{i}.npz')) for i in range(2)]


def alone(folder, name):
  """What one process with two devices counts of the run's network."""
  config = dense_worker.config_of(name)
  config.mesh.data = 2
  parts = build.build(config)
  network, mesh = parts.exp.students['student'], parts.mesh
  shapes = dict(inspect.variables_of(network, parts.source.info.image_size))
  variables = restore.restore(folder / name / 'student', shapes, mesh)
  test = splits.split(config, parts, print, 'test')
  return dense_worker.counted(
    lambda: teacher.measure(network, variables, test, 4, mesh)
  )


def of(kept, kind):
  """The sums or the rows among what was counted, by their keys."""
  return {
    key.removeprefix(f"{kind}['").removesuffix("']"): value
    for key, value in kept.items()
    if key.startswith(kind)
  }


@pytest.mark.parametrize(('name', 'task'), dense_worker.TASKS.items())
def test_two_processes_count_what_one_counts(folder, name, task):
  first, second = counts(folder, name)
  want, task = alone(folder, name), tasks.find(task)
  assert {*first} == {*second} == {*want}
  for key, value in want.items():
    np.testing.assert_array_equal(first[key], value, err_msg=key)
    np.testing.assert_array_equal(second[key], value, err_msg=key)
  sums, rows = of(want, 'sums'), of(want, 'rows')
  assert sums['images'] == few_scenes.COUNTS['test'] == 10
  if name == 'segmentation':
    labels = few_scenes.part('test').labels
    assert sums['confusion'].sum() == (labels != 255).sum()
  if name == 'detection':
    assert (rows['detections'][..., 0] > 0).any()
  result = run_dir.Folder(folder / name).read('result.json')
  metric = task.headline.name
  assert result[metric] == task.figures(sums, rows)[metric]
