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


def counts(folder, task):
  """What both processes counted of a task."""
  return [dict(np.load(folder / f'{task}{i}.npz')) for i in range(2)]


def alone(folder, task):
  """What one process with two devices counts of the run's network."""
  config = dense_worker.config_of(task)
  config.mesh.data = 2
  parts = build.build(config)
  network, mesh = parts.exp.students['student'], parts.mesh
  shapes = dict(inspect.variables_of(network, parts.source.info.image_size))
  variables = restore.restore(folder / task / 'student', shapes, mesh)
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


@pytest.mark.parametrize('task', dense_worker.TASKS)
def test_two_processes_count_what_one_counts(folder, task):
  first, second = counts(folder, task)
  want, metric = alone(folder, task), tasks.find(task).headline.name
  assert {*first} == {*second} == {*want}
  for name, value in want.items():
    np.testing.assert_array_equal(first[name], value, err_msg=name)
    np.testing.assert_array_equal(second[name], value, err_msg=name)
  sums, rows = of(want, 'sums'), of(want, 'rows')
  assert sums['images'] == few_scenes.COUNTS['test'] == 10
  if task == 'segmentation':
    labels = few_scenes.part('test').labels
    assert sums['confusion'].sum() == (labels != 255).sum()
  figures = tasks.find(task).figures(sums, rows)
  result = run_dir.Folder(folder / task).read('result.json')
  assert result[metric] == figures[metric]
