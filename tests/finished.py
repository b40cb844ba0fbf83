"""The folder of a finished run, as the trainer leaves it, without training."""

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
  """The digits recipe with small networks."""
  made = train_test.configuration(name).get_config('digits')
  made.student.args.widths = (4, 4, 8, 16)
  made.teacher.name = 'resnet8'
  made.teacher.args.widths = (8, 8, 16, 32)
  made.mesh.data = 1
  return made


def run(folder, name='kd'):
  """Writes the folder of 'kd' or 'pics', its accuracy that of the loop."""
  made = config(name)
  place = run_dir.Folder(folder)
  place.claim(config_lib.plain(made), digits.INFO.identity())
  facts = {'num_classes': CLASSES, 'train_labels': np.zeros(20, np.int32)}
  exp = build.experiment(made, facts, 1)
  frozen = {n: tiny.variables(net, 1) for n, net in exp.teachers.items()}
  init = jax.jit(functools.partial(step.init, exp))
  state = init(np.int32(0), frozen, tiny.batch())
  student = tiny.variables(exp.students['student'], 2)
  params = {**state.params, 'student': student['params']}
  others = {
    **state.model_state,
    'student': {'batch_stats': student['batch_stats']},
  }
  kept = inspect.deployed(exp, digits.INFO.image_size)
  if kept.groups == ('student',):
    checkpoint.save_only(place.path / 'student', 3, student)
  else:
    own = {n: {'params': params[n], **others[n]} for n in ('student', 'method')}
    checkpoint.save_only(place.path / 'deployed', 3, own)
    checkpoint.save_only(place.path / 'teacher', 0, frozen['teacher'])
  mesh = sharding.make_mesh(1)
  test = resident.Resident(digits.read('test'), digits.INFO, mesh)
  counts = evaluation.make(exp, test, mesh)
  found = evaluation.evaluate(
    exp.method.task, counts, test, 192, params, others, frozen
  )
  result = {
    'method': name,
    'kept': list(kept.groups),
    'params': kept.params,
    'flops': kept.flops,
    'test_images': 360,
    'top1': found['student']['top1'],
    'top5': found['student']['top5'],
    'seed': 0,
    'wall_s': 1.0,
    'teacher': {'network': 'resnet8'},
  }
  place.write('result.json', result)


@functools.cache
def places():
  """A folder with runs 'kd' and 'pics', and exports 'kd_out' and 'pics_out'.

  Tests of a process share it, and change nothing in it.
  """
  holder = tempfile.TemporaryDirectory(prefix='kd_jax_finished_')
  atexit.register(holder.cleanup)
  folder = pathlib.Path(holder.name)
  for name in ('kd', 'pics'):
    run(folder / name, name)
    with artifact.beside(folder / f'{name}_out') as part:
      artifact.write(restore.load(folder / name), part, digits.read('test'))
  return folder


def result(name):
  """What the run's result.json says."""
  return json.loads((places() / name / 'result.json').read_text())


def correct(result):
  return round(result['top1'] * result['test_images'] / 100)
