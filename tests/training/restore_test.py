"""What a path holds: a run, an export, or nothing of ours."""

import json
import shutil

import jax
import numpy as np
import pytest

from kd_jax import errors, models
from kd_jax.training import restore
from tests import finished


@pytest.fixture(scope='module')
def places():
  return finished.places()


def images(count=5):
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (count, 8, 8, 3), np.uint8)


def logits(found):
  return np.asarray(jax.jit(found.forward)(found.weights, images()))


def ours(widths=(4, 4, 8, 16), classes=10):
  return models.make('resnet8', classes, widths=widths)


def test_a_run_normalises_and_predicts_as_its_network(places):
  found = restore.load(places / 'kd')
  own = restore.variables(found, ours(), 10, 8)
  normal = (images() / 255 - 0.3053) / 0.3759
  want = ours().apply(own, normal.astype(np.float32), train=False)
  np.testing.assert_allclose(logits(found), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('name', ['kd', 'pics'])
def test_an_export_predicts_as_its_run(places, name):
  run, export = (restore.load(places / n) for n in (name, f'{name}_out'))
  want = logits(run)
  assert want.std() > 0.01
  # Two compilations of the same operations.
  np.testing.assert_allclose(logits(export), want, rtol=1e-4, atol=1e-4)
  facts = json.loads(json.dumps(run.facts))
  assert facts == {k: export.facts[k] for k in facts}


def test_the_teacher_of_a_run_sees_what_it_saw_with_running_statistics(
  places, tmp_path
):
  shutil.copytree(places / 'kd', tmp_path / 'kd')
  file = tmp_path / 'kd/config.json'
  config = json.loads(file.read_text())
  config['teacher'] |= {'mean': [0.5] * 3, 'std': [0.25] * 3}
  config['teacher']['args']['batch_norm'] = 'batch'
  file.write_text(json.dumps(config))
  found = restore.teacher(tmp_path / 'kd')
  network = ours((8, 8, 16, 32))
  own = restore.variables(found, network, 10, 8)
  normal = ((images() / 255 - 0.5) / 0.25).astype(np.float32)
  want = network.apply(own, normal, train=False)
  np.testing.assert_allclose(logits(found), want, rtol=1e-4, atol=1e-4)


def test_a_run_may_have_no_teacher(places, tmp_path):
  shutil.copytree(places / 'kd', tmp_path / 'kd')
  file = tmp_path / 'kd/config.json'
  config = json.loads(file.read_text())
  config['teacher']['name'] = ''
  file.write_text(json.dumps(config | {'method': 'ce'}))
  assert restore.teacher(tmp_path / 'kd') is None


def test_a_run_and_its_export_are_the_same_teacher(places):
  trees = [
    restore.variables(restore.load(places / n), ours(), 10, 8)
    for n in ('kd', 'kd_out')
  ]
  assert set(trees[0]) == {'params', 'batch_stats'}
  jax.tree.map(np.testing.assert_array_equal, *trees)


@pytest.mark.parametrize(
  ('name', 'network', 'classes', 'message'),
  [
    ('pics', ours(), 10, 'does not stand alone'),
    ('pics_out', ours(), 10, 'does not stand alone'),
    ('kd', ours(), 7, 'has 10 classes, and the data set 7'),
    ('kd', ours((4, 4, 8, 32)), 10, r'is another one: .*, and \d+ more'),
    ('kd_out', ours((4, 4, 8, 32)), 10, 'is another one'),
  ],
)
def test_what_cannot_be_the_teacher_is_said_in_one_line(
  places, name, network, classes, message
):
  found = restore.load(places / name)
  with pytest.raises(errors.UsageError, match=message) as raised:
    restore.variables(found, network, classes, 8)
  assert '\n' not in str(raised.value)


def spoil(path, name, change):
  file = path / name
  file.write_bytes(change(file.read_bytes()))


MISTAKES = {
  'not there': ('kd', shutil.rmtree),
  'neither a finished run .* nor an export': (
    'kd',
    lambda p: (shutil.rmtree(p), p.write_text('no checkpoint')),
  ),
  'is a run that is not finished': (
    'kd',
    lambda p: (p / 'result.json').unlink(),
  ),
  'config.json is damaged: Unterminated string': (
    'kd',
    lambda p: spoil(p, 'config.json', lambda b: b[:100]),
  ),
  'student holds no complete checkpoint': (
    'kd',
    lambda p: shutil.rmtree(p / 'student/3'),
  ),
  'checkpoint .* is damaged': (
    'kd',
    lambda p: shutil.rmtree(p / 'student/3/default/d'),
  ),
  'deployed is not there': ('pics', lambda p: shutil.rmtree(p / 'deployed')),
  'is not what kd_jax.export writes': (
    'kd_out',
    lambda p: (p / 'network.json').write_text('{}'),
  ),
  'in format 2; this kd_jax, .*, reads up to format 1: install a newer': (
    'kd_out',
    lambda p: spoil(
      p, 'network.json', lambda b: b.replace(b'"format": 1', b'"format": 2')
    ),
  ),
  'takes other weights or images than this folder has': (
    'kd_out',
    lambda p: spoil(
      p,
      'network.json',
      lambda b: b.replace(b'"image_size": 8', b'"image_size": 9'),
    ),
  ),
  'weights.safetensors is damaged': (
    'kd_out',
    lambda p: spoil(p, 'weights.safetensors', lambda b: b[:-4] + b'abcd'),
  ),
  'is no whole export': (
    'kd_out',
    lambda p: (p / 'forward.jax_export').unlink(),
  ),
}


@pytest.mark.parametrize('message', MISTAKES)
def test_what_cannot_be_read_is_said_in_one_line(places, tmp_path, message):
  name, damage = MISTAKES[message]
  shutil.copytree(places / name, tmp_path / name)
  damage(tmp_path / name)
  with pytest.raises(errors.UsageError, match=message) as raised:
    restore.load(tmp_path / name)
  assert '\n' not in str(raised.value)
