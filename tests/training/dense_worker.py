"""Trains and measures dense tasks as one of two processes.

It is for dense_processes_test.
"""

import pathlib
import sys

import jax
import numpy as np

from kd_jax.distill import evaluation
from kd_jax.runtime import distributed, run_dir
from kd_jax.training import picture, run
from tests import few_scenes
from tests.cli import train_test
from tests.training import detection_run_test

# The runs, and their tasks.
TASKS = {
  'segmentation': 'segmentation',
  'shapes': 'segmentation',
  'detection': 'detection',
}


def config_of(name):
  """An epoch of four steps; the 10 test images are batches of 4, 4 and 2.

  Segmentation stays on the devices, detection is streamed; images of three
  shapes are batches of 4, 3 and 3, a device having 2.
  """
  if name != 'detection':
    config = train_test.configuration('ce').get_config('scenes_segmentation')
    config = few_scenes.smaller(config)
    if name == 'shapes':
      config.data.name = 'tests.few_scenes:opened_uneven'
      config.data.eval_protocol, config.data.workers = 'paper', 0
  else:
    config = detection_run_test.config_of()
    config.data.device_mb, config.data.workers = 0, 0
  config.mesh.data, config.epochs = -1, 1
  return config


def counted(measured):
  """What the figures of all splits are computed from, by 'kind/key'.

  Args:
    measured: Evaluates.
  """
  total, rows, kept = evaluation.total, evaluation.rows, {}

  def keeping(kind, function):
    def kept_too(batches):
      result = function(batches)
      leaves = jax.tree_util.tree_leaves_with_path(result)
      kept.update(
        {f'{kind}{jax.tree_util.keystr(path)}': leaf for path, leaf in leaves}
      )
      return result

    return kept_too

  evaluation.total = keeping('sums', total)
  evaluation.rows = keeping('rows', rows)
  try:
    measured()
  finally:
    evaluation.total, evaluation.rows = total, rows
  return kept


def main(folder):
  """Trains a run of each task, and writes what each process counted."""
  distributed.start(heartbeat_timeout_seconds=100)  # heartbeats may come late
  picture.curves = lambda *_: None  # drawing takes longer than training
  folder = pathlib.Path(folder)
  for name in TASKS:
    place = run_dir.Folder(folder / name)
    kept = counted(lambda name=name, to=place: run.train(config_of(name), to))
    np.savez(folder / f'{name}{distributed.index()}.npz', **kept)
  print('done', distributed.count(), jax.device_count())


if __name__ == '__main__':
  main(*sys.argv[1:])
