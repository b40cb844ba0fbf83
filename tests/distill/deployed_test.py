"""What a run keeps of methods that deploy more, or another network."""

import functools
import json

from flax import traverse_util
import numpy as np
import pytest

from kd_jax import config as config_lib
from kd_jax import errors
from kd_jax.data.sets import digits
from kd_jax.distill import build
from kd_jax.runtime import run_dir
from kd_jax.training import datasets, measure, restore, run
from tests.cli import train_test
from tests.training.end_to_end_test import leaves
from tests.training.phases_test import teacher  # noqa: F401  (a fixture)
from tests.training.teacher_test import saved


def small(name):
  """One epoch of four steps."""
  config = train_test.configuration(name).get_config('digits')
  config.data.train_size, config.batch_size = 80, 20
  config.epochs, config.mesh.data = 1, 1
  config.student.args.widths = (4, 4, 8, 16)
  return config


def with_teacher(config, folder):
  config.teacher.name = 'resnet8'
  config.teacher.args.widths = (8, 8, 16, 32)
  config.teacher.path = str(folder)
  config.teacher.expected_top1 = 0.0
  return config


def measured(found):
  """The accuracy of what was trained, on the test split of its data."""
  opened = datasets.open_data(found)
  return measure.accuracy(found, opened.split('test'), opened.info)


def test_simkd_keeps_its_projector_and_is_no_teacher(tmp_path, teacher):  # noqa: F811
  config = with_teacher(small('simkd'), teacher)
  result = run.train(config, run_dir.Folder(tmp_path / 'run'))
  assert result['kept'] == ['method', 'student', 'teacher']
  assert not (tmp_path / 'run/student').exists()
  _, kept = leaves(tmp_path / 'run/deployed')
  groups = {name.split('/')[0] for name in kept}
  assert groups == {'method', 'student'}
  _, whole = leaves(tmp_path / 'run/checkpoints')
  name = 'params/reused/projector0/conv3/kernel'
  np.testing.assert_array_equal(
    kept[f'method/{name}'], whole[name.replace('params/', 'params/method/')]
  )
  # The encoder, the projector and the teacher's classifier; no other.
  own = sum(
    v.size
    for k, v in kept.items()
    if '/params/' in k and not k.startswith('student/params/fc')
  )
  assert result['params'] == own + 32 * 10 + 10
  found = restore.load(tmp_path / 'run')
  assert measured(found)['top1'] == result['top1']
  # A run of an older version has fewer keys.
  older = json.loads((tmp_path / 'run/config.json').read_text())
  for path in config_lib.ADDED:
    *groups, last = path.split('.')
    functools.reduce(lambda x, name: x.get(name, {}), groups, older).pop(
      last, None
    )
  assert 'eval_protocol' not in older['data']
  (tmp_path / 'run/config.json').write_text(json.dumps(older))
  assert measured(restore.load(tmp_path / 'run'))['top1'] == result['top1']
  again = with_teacher(small('kd'), tmp_path / 'run')
  with pytest.raises(errors.UsageError, match='does not stand alone'):
    run.train(again, run_dir.Folder(tmp_path / 'again'))


def test_ffsd_deploys_its_leader_alone(tmp_path):
  config = small('ffsd')
  result = run.train(config, run_dir.Folder(tmp_path / 'run'))
  assert result['kept'] == ['leader']
  _, kept = leaves(tmp_path / 'run/student')
  _, whole = leaves(tmp_path / 'run/checkpoints')
  for name in ('conv1/kernel', 'fc/bias'):
    leader = whole[f'params/leader/{name}']
    np.testing.assert_array_equal(kept[f'params/{name}'], leader)
    assert np.any(leader != whole[f'params/student_0/{name}'])
  assert result['params'] == sum(
    v.size for k, v in kept.items() if k.startswith('params/')
  )
  found = restore.load(tmp_path / 'run')
  assert measured(found)['top1'] == result['top1']
  # It can be the next run's teacher.
  parts = build.build(config)
  leader = parts.exp.students['leader']
  found = restore.variables(found, leader, 10, 8)
  np.testing.assert_array_equal(
    found['params']['fc']['bias'], kept['params/fc/bias']
  )


def test_a_teacher_that_predicts_keeps_its_own_normalisation(tmp_path):
  file = tmp_path / 'teacher.safetensors'
  config = with_teacher(small('kd'), file)
  config.method = 'tests.distill.averaged:Method'
  config.teacher.args.widths = (16, 16, 32, 64)
  config.teacher.mean, config.teacher.std = (0.9,) * 3, (0.05,) * 3
  frozen = saved(file, config)
  result = run.train(config, run_dir.Folder(tmp_path / 'run'))
  assert result['kept'] == ['student', 'teacher']
  found = restore.load(tmp_path / 'run', allow_imports=True)
  images = digits.read('test').image[:20]
  student = traverse_util.unflatten_dict(found.weights, sep='/')['student']
  networks = (config.student, student), (config.teacher, frozen)
  seen = (found.facts['mean'][0], found.facts['std'][0]), (0.9, 0.05)
  want = [
    build.make_network(part, 10, 'float32').apply(
      variables, (images / np.float32(255) - mean) / std, train=False
    )
    for (part, variables), (mean, std) in zip(networks, seen, strict=True)
  ]
  np.testing.assert_allclose(
    found.forward(found.weights, images), sum(want) / 2, rtol=1e-4, atol=1e-4
  )
