"""Writes the folder of a finished run as the trainer does, without training."""

import atexit
import functools
import json
import pathlib
import tempfile

import jax
import numpy as np

from kd_jax import config as config_lib
from kd_jax.data import resident
from kd_jax.data.sets import digits
from kd_jax.distill import build, evaluation, inspect, step
from kd_jax.export import artifact
from kd_jax.runtime import checkpoint, run_dir, sharding
from kd_jax.training import restore
from tests import tiny
from tests.cli import train_test

CLASSES = len(digits.INFO.class_names)


def config(name):
  """Returns the digits recipe of a method, with small networks."""
  config_dict = train_test.configuration(name).get_config('digits')
  config_dict.student.args.widths = (4, 4, 8, 16)
  config_dict.teacher.name = 'resnet8'
  config_dict.teacher.args.widths = (8, 8, 16, 32)
  config_dict.mesh.data = 1
  return config_dict


def run(folder, name='kd'):
  """Writes the folder of a run, with the accuracy that the trainer measures.

  Args:
    folder: The folder to write.
    name: The method, 'kd' or 'pics'.
  """
  config_dict = config(name)
  run_folder = run_dir.Folder(folder)
  run_folder.claim(config_lib.plain(config_dict), digits.INFO.identity())
  facts = {'num_classes': CLASSES, 'train_labels': np.zeros(20, np.int32)}
  exp = build.experiment(config_dict, facts, 1)
  frozen = {key: tiny.variables(net, 1) for key, net in exp.teachers.items()}
  init = jax.jit(functools.partial(step.init, exp))
  state = init(np.int32(0), frozen, tiny.batch())
  student = tiny.variables(exp.students['student'], 2)
  params = {**state.params, 'student': student['params']}
  model_state = {
    **state.model_state,
    'student': {'batch_stats': student['batch_stats']},
  }
  kept = inspect.trace(exp, digits.INFO.image_size, 2).deployed
  if kept.groups == ('student',):
    checkpoint.save_only(run_folder.path / 'student', 3, student)
  else:
    deployed = {
      key: {'params': params[key], **model_state[key]}
      for key in ('student', 'method')
    }
    checkpoint.save_only(run_folder.path / 'deployed', 3, deployed)
  checkpoint.save_only(run_folder.path / 'teacher', 0, frozen['teacher'])
  mesh = sharding.make_mesh(1)
  test = resident.Resident(digits.read('test'), digits.INFO, mesh)
  counts = evaluation.make(exp, test, mesh)
  accuracy = evaluation.evaluate(
    exp.method.task, counts, test, 192, params, model_state, frozen
  )
  result = {
    'method': name,
    'kept': list(kept.groups),
    'params': kept.params,
    'flops': kept.flops,
    'test_images': 360,
    'top1': accuracy['student']['top1'],
    'top5': accuracy['student']['top5'],
    'seed': 0,
    'wall_s': 1.0,
    'teacher': {'network': 'resnet8'},
  }
  run_folder.write('result.json', result)


@functools.cache
def places():
  """Returns a folder with the runs and exports of 'kd' and 'pics'.

  The runs are the folders 'kd' and 'pics', the exports 'kd_out' and 'pics_out'.
  The tests of a process share them and must not change them.
  """
  holder = tempfile.TemporaryDirectory(prefix='kd_jax_finished_')
  atexit.register(holder.cleanup)
  folder = pathlib.Path(holder.name)
  for name in ('kd', 'pics'):
    run(folder / name, name)
    with artifact.beside(folder / f'{name}_out') as target:
      artifact.write(restore.load(folder / name), target, digits.read('test'))
  return folder


def result(name):
  """Returns the content of the result.json of a run."""
  return json.loads((places() / name / 'result.json').read_text())


def correct(result):
  """Returns the number of test images that a run classifies correctly."""
  return round(result['top1'] * result['test_images'] / 100)
