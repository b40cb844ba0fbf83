"""An export stands alone, and is whole or not there."""

import errno
import json
import pathlib
import re
import runpy
import shutil
import sys

import jax
from jax import export
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import pytest

from kd_jax import errors
from kd_jax.data.sets import digits
from kd_jax.distill import build, inspect
from kd_jax.export import artifact, predict_template
from kd_jax.training import restore
from tests import children, finished

# What predict.py must not need.
FOREIGN = (
  'PIL', 'absl', 'etils', 'flax', 'kd_jax', 'ml_collections', 'optax', 'orbax',
  'simplejpeg', 'sklearn', 'tensorflow', 'torch',
)  # fmt: skip


# Exports that `tests.vectors.make_export` wrote with the JAX that they name.
STORED = sorted(
  (pathlib.Path(__file__).parent.parent / 'vectors/exports').iterdir()
)


@pytest.fixture(scope='module', params=['kd', 'pics'])
def made(request):
  """The result of a run, and the folder of its export."""
  name = request.param
  return finished.result(name), finished.places() / f'{name}_out'


def predict(folder, *arguments):
  """Runs predict.py where what is foreign to it cannot be imported."""
  code = (
    'import runpy, sys\n'
    f'sys.modules.update(dict.fromkeys({FOREIGN}))\n'
    f'sys.argv = {["predict.py", *map(str, arguments)]}\n'
    f'runpy.run_path({str(folder / "predict.py")!r}, run_name="__main__")\n'
  )
  return children.run([sys.executable, '-c', code])


@pytest.mark.parametrize(
  ('arguments', 'code'), [([], 2), (['-h'], 0), (['--help'], 0)]
)
def test_predict_says_how_it_is_used(arguments, code, monkeypatch, capsys):
  monkeypatch.setattr(sys, 'argv', ['predict.py', *arguments])
  with pytest.raises(SystemExit) as raised:
    runpy.run_path(predict_template.__file__, run_name='__main__')
  assert raised.value.code == code
  said = capsys.readouterr()
  assert 'python predict.py FILES' in (said.err if code else said.out)


def test_predict_alone_counts_as_the_run_did(made):
  result, folder = made
  ended = predict(folder, folder / 'test.npz')
  assert ended.returncode == 0, ended.stderr
  assert ended.stdout.endswith(f'{finished.correct(result)} of 360 correct\n')
  facts = json.loads((folder / 'network.json').read_text())
  assert facts['accuracy']['correct'] == finished.correct(result)
  assert facts['parameters'] == result['params']


def test_predict_labels_images_and_says_what_it_cannot_read(made, tmp_path):
  _, folder = made
  found = restore.load(folder)
  images = digits.read('test').image[:3]
  np.save(tmp_path / 'three.npy', images)
  np.save(tmp_path / 'float.npy', images.astype(np.float32))
  (tmp_path / 'photo.png').write_bytes(b'')
  ended = predict(folder, tmp_path / 'three.npy')
  logits = np.asarray(found.forward(found.weights, images))
  assert [line.split('\t')[1] for line in ended.stdout.splitlines()] == [
    str(k) for k in logits.argmax(axis=-1)
  ]
  for name, message in (
    ('float.npy', 'float32'),
    ('photo.png', 'pip install pillow'),
    ('missing.npy', 'No such file'),
  ):
    ended = predict(folder, tmp_path / name)
    assert ended.returncode == 2, ended.stderr
    assert message in ended.stderr
    assert 'Traceback' not in ended.stderr
  assert len((folder / 'predict.py').read_text().splitlines()) < 420


def forward_of_five(images):
  """Logits of image i whose largest is that of class i."""
  return np.eye(5, dtype=np.float32)[: len(images)]


def predicted(path, labels):
  """What predict.py says of five images of the classes 0 to 4."""
  np.savez(path, image=np.zeros((5, 4, 4, 3), np.uint8), label=labels)
  facts = {'image_size': 4, 'class_names': list('abcde')}
  return predict_template.predict(facts, forward_of_five, path)


def test_predict_takes_labels_as_columns_too(tmp_path):
  labels = np.array([0, 1, 2, 4, 3])
  for given in (labels, labels[:, None]):
    (line,) = predicted(tmp_path / 'x.npz', given)
    assert line.endswith(': 3 of 5 correct')


@pytest.mark.parametrize('shape', [(), (1,), (4,), (1, 5), (5, 2), (5, 1, 1)])
def test_predict_refuses_labels_of_another_shape(shape, tmp_path):
  with pytest.raises(ValueError, match=r'x\.npz: label has .*\[N\] or \[N,1\]'):
    predicted(tmp_path / 'x.npz', np.zeros(shape, np.int64))


def test_the_program_is_for_every_platform_and_any_batch(made):
  _, folder = made
  found = restore.load(folder)
  content = (folder / artifact.FORWARD).read_bytes()
  program = export.deserialize(bytearray(content))
  assert set(program.platforms) == {'cpu', 'cuda', 'tpu'}
  images = digits.read('test').image[:5]
  five = np.asarray(jax.jit(found.forward)(found.weights, images))
  one = np.asarray(jax.jit(found.forward)(found.weights, images[:1]))
  assert five.shape == (5, 10)
  np.testing.assert_allclose(one, five[:1], rtol=1e-4, atol=1e-4)


def test_only_what_the_prediction_reads_is_exported(made):
  result, folder = made
  weights = restore.load(folder).weights
  params = [v for k, v in weights.items() if '/params/' in k]
  assert sum(v.size for v in params) == result['params']
  if result['method'] == 'pics':
    teacher = {name for name in weights if name.startswith('teacher')}
    assert teacher == {f'teacher/params/fc/{x}' for x in ('kernel', 'bias')}
    assert not any(name.startswith('student/params/fc') for name in weights)
    # Nor is the teacher's encoder computed.
    run = restore.load(finished.places() / 'pics')
    _, program = artifact.program(run, ['cpu'])
    found = program.mlir_module().count('stablehlo.convolution')
    assert found == 9 + 3 * 3


@pytest.mark.parametrize('stored', STORED, ids=lambda path: path.name)
def test_an_export_of_another_jax_agrees_or_is_refused_in_one_line(
  stored, tmp_path, capfd
):
  folder = shutil.copytree(stored, tmp_path / 'export')
  shutil.copy(predict_template.__file__, folder / 'predict.py')
  written = json.loads((folder / 'network.json').read_text())['jax']
  with np.load(folder / 'expected.npz') as file:
    expected = dict(file)
  line = refusal(folder)
  ended = predict(folder, folder / 'expected.npz')
  if line is None:
    found = restore.load(folder)
    logits = jax.jit(found.forward)(found.weights, expected['image'])
    np.testing.assert_allclose(logits, expected['logits'], rtol=0, atol=1e-4)
    assert ended.stdout.endswith('5 of 5 correct\n')
    assert ended.returncode == 0
  else:
    assert version_of(jax.__version__) < version_of(written), line
    for said in (line, ended.stderr):
      assert f'jax {written}, and jax {jax.__version__} cannot' in said
      assert 'pip install' in said
    assert ended.returncode == 2
    assert ended.stderr.count('\n') == 1
  assert not capfd.readouterr().err  # nor MLIR's own lines


def refusal(folder):
  """Why an export cannot be read; None where it can."""
  try:
    restore.load(folder)
  except errors.UsageError as error:
    return str(error)
  return None


def version_of(text):
  return tuple(int(part) for part in text.split('.')[:3])


def test_a_network_for_some_batches_only_is_refused(made):
  found = restore.load(made[1])

  def forward(weights, images):
    halves = images.reshape(2, -1, 192).astype(jnp.float32)
    return (halves @ weights['kernel']).reshape(-1, 10)

  odd = artifact.Trained({'kernel': jnp.ones((192, 10))}, forward, found.facts)
  with pytest.raises(errors.UsageError, match='a batch of any size'):
    artifact.program(odd)


@pytest.mark.parametrize(
  ('name', 'dtype', 'args'),
  [
    ('resnet8', 'float32', {'widths': (4, 4, 8, 16)}),
    ('resnet8', 'bfloat16', {'widths': (4, 4, 8, 16)}),
    ('vgg8', 'float32', {}),
    ('mobilenetv2', 'bfloat16', {}),
    ('shufflenetv2', 'float32', {}),
  ],
)
def test_a_program_makes_the_custom_calls_of_the_table(name, dtype, args):
  described = ConfigDict({'name': name, 'args': args})
  network = build.make_network(described, 10, dtype)
  variables = dict(inspect.variables_of(network, 32))
  facts = {'network': name, 'image_size': 32, 'mean': [0.5] * 3}
  facts |= {'std': [0.2] * 3, 'class_names': list('0123456789')}
  trained = restore.alone(network, variables, facts)
  weights, program = artifact.program(trained)
  calls = re.findall(r'custom_call @"?([^"(\s]+)', program.mlir_module())
  assert {*calls} == {*predict_template.CALLS}
  read = export.deserialize(bytearray(program.serialize()))
  assert not predict_template.refusal(read, weights, facts)


def test_an_export_is_whole_or_not_there(tmp_path):
  def broken():
    with artifact.beside(tmp_path / 'x') as part:
      (part / 'network.json').write_text('{}')
      raise ZeroDivisionError

  with pytest.raises(ZeroDivisionError):
    broken()
  assert not list(tmp_path.iterdir())
  with artifact.beside(tmp_path / 'a/b') as part:
    (part / 'network.json').write_text('{}')
    assert not (tmp_path / 'a/b').exists()
  assert [p.name for p in (tmp_path / 'a').iterdir()] == ['b']


def test_what_is_there_is_not_overwritten_and_what_cannot_be_is_said(tmp_path):
  (tmp_path / 'file').write_text('mine')
  for name, message in (('file', 'already'), ('file/out', 'cannot write')):
    with (
      pytest.raises(errors.UsageError, match=message),
      artifact.beside(tmp_path / name),
    ):
      pass
  assert (tmp_path / 'file').read_text() == 'mine'
  assert [p.name for p in tmp_path.iterdir()] == ['file']


def fail_to_read(place, part):
  (place / 'missing').read_bytes()


def fail_to_print(place, part):
  raise BrokenPipeError(errno.EPIPE, 'Broken pipe')


def fail_to_open(place, part):
  (part / 'none/x').write_bytes(b'')


def fill(place, part):
  raise OSError(errno.ENOSPC, 'No space left on device')


@pytest.mark.parametrize(
  ('body', 'error', 'said'),
  [
    (fail_to_read, FileNotFoundError, 'missing'),
    (fail_to_print, BrokenPipeError, 'Broken'),
    (fail_to_open, errors.UsageError, r'cannot write .*/out: .*none/x'),
    (fill, errors.UsageError, r'cannot write .*/out: .*No space left'),
  ],
)
def test_what_fails_beside_the_writing_is_not_said_to_be_it(
  body, error, said, tmp_path
):
  with (
    pytest.raises(error, match=said),
    artifact.beside(tmp_path / 'out') as part,
  ):
    body(tmp_path, part)
  assert not list(tmp_path.iterdir())


def test_linear_algebra_is_refused_with_a_cure(made, tmp_path):
  _, folder = made
  found = restore.load(folder)

  def forward(weights, images):
    logits = found.forward(weights, images)
    return logits @ jnp.linalg.inv(jnp.eye(10) + logits[:1].T @ logits[:1])

  with pytest.raises(
    errors.UsageError, match=r"calls 'lapack.*without jnp\.lin"
  ):
    artifact.write(found._replace(forward=forward), tmp_path)
  assert not list(tmp_path.iterdir())
