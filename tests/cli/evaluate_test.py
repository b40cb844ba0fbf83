"""The command that measures whatever was trained on whatever data."""

import json

import numpy as np
from PIL import Image
import pytest
from safetensors import numpy

from kd_jax import models
from kd_jax.cli import evaluate
from kd_jax.data import source
from kd_jax.data.sets import digits
from kd_jax.models.pretrained import convert
from kd_jax.training import measure, restore
from tests import finished


@pytest.mark.parametrize('name', ['kd', 'kd_out', 'pics_out'])
def test_a_run_and_an_export_are_measured_as_the_loop_did(
  name, tmp_path, capsys
):
  path, file = finished.places() / name, tmp_path / 'figures.json'
  assert evaluate.main([str(path), f'--json={file}']) == 0
  figures = json.loads(file.read_text())
  result = finished.result(name.removesuffix('_out'))
  assert figures['correct'] == finished.correct(result)
  assert figures['images'] == 360
  assert figures['top5'] == pytest.approx(result['top5'])
  each = figures['classes']
  assert sum(c['correct'] for c in each) == figures['correct']
  labels = digits.read('test').labels
  assert [c['images'] for c in each] == np.bincount(labels).tolist()
  assert f'{figures["correct"]} of 360 images correct' in (
    capsys.readouterr().out
  )


def scored(found, images, names, batch_size=256):
  info = digits.INFO._replace(class_names=tuple(names))
  return measure.accuracy(found, images, info, batch_size)


def test_every_image_counts_once_in_its_class_whatever_the_batch():
  found = restore.load(finished.places() / 'kd')
  test = digits.read('test')
  part = source.Arrays(test.image[:37], test.labels[:37])
  logits = np.asarray(found.forward(found.weights, part.image))
  right = logits.argmax(axis=-1) == part.labels
  for batch_size in (5, 37, 64):
    figures = scored(found, part, digits.INFO.class_names, batch_size)
    assert figures['images'] == 37
    assert figures['correct'] == right.sum()
    for k, one in enumerate(figures['classes']):
      assert one['correct'] == right[part.labels == k].sum()


def test_classes_of_the_same_names_in_another_order_meet_by_name():
  found = restore.load(finished.places() / 'kd')
  test = digits.read('test')
  turned = source.Arrays(test.image, 9 - test.labels)
  names = digits.INFO.class_names
  want = scored(found, test, names)
  assert scored(found, turned, names[::-1]) == want
  assert scored(found, test, [f'digit {n}' for n in names]) == want
  assert scored(found, turned, names) != want


def folder(root, classes):
  """A data set of black images of 16 pixels."""
  for split in ('train', 'val'):
    for k in range(classes):
      place = root / split / f'class {k}'
      place.mkdir(parents=True)
      Image.new('RGB', (16, 16)).save(place / 'black.png')
  return f'folder:{root}'


def test_another_data_set_is_scaled_and_its_classes_met_by_number(
  tmp_path, capsys
):
  path = str(finished.places() / 'kd_out')
  assert evaluate.main([path, '--data', folder(tmp_path, 10)]) == 0
  out = capsys.readouterr().out
  assert '1 of 10 images correct' in out
  assert 'met by number' in out


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--data=digit'], "did you mean 'digits'"),
    (['--split=tset'], "did you mean 'test'"),
    (['--split=val'], "unknown --split 'val'"),
    (['--batch_size=0'], '--batch_size=0'),
    (['--batchsize=3'], '--help'),
    (['--json=/nowhere/x.json'], 'cannot write /nowhere/x.json'),
  ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, message, capsys):
  assert evaluate.main([str(finished.places() / 'kd_out'), *arguments]) == 2
  error = capsys.readouterr().err
  assert error.count('\n') == 1
  assert message in error


def test_a_data_set_of_other_classes_is_refused(tmp_path, capsys):
  path = str(finished.places() / 'kd_out')
  assert evaluate.main([path, '--data', folder(tmp_path, 3)]) == 2
  error = capsys.readouterr().err
  assert 'has 3 classes, and the network 10' in error
  assert error.count('\n') == 1


def test_a_file_of_pytorch_weights_is_measured(tmp_path):
  network, rng, state = models.make('resnet8', 10), np.random.default_rng(0), {}
  for name, shape in convert.originals(network).items():
    values = np.abs(rng.normal(size=shape)).astype(np.float32)
    values /= np.float32(np.sqrt(np.prod(shape[1:])))
    state[name] = values if len(shape) == 1 else values - values.mean()
  file, out = tmp_path / 'resnet8.safetensors', tmp_path / 'figures.json'
  numpy.save_file(state, file)
  command = [str(file), '--network=resnet8', '--data=digits', f'--json={out}']
  seen = ['--mean', '0.5', '0.5', '0.5', '--std', '0.25', '0.25', '0.25']
  assert evaluate.main([*command, *seen]) == 0
  figures = json.loads(out.read_text())
  pixels = digits.read('test').image / np.float32(255)
  variables = convert.convert(network, state)
  logits = network.apply(variables, (pixels - 0.5) / 0.25, train=False)
  right = np.argmax(np.asarray(logits), -1) == digits.read('test').labels
  assert abs(figures['correct'] - right.sum()) <= 1  # of equal logits
  assert figures['images'] == 360


@pytest.mark.parametrize(
  ('more', 'cure'),
  [
    (('--network=resnet8',), '--data is missing'),
    (('--network=resnet9', '--data=digits'), "did you mean 'resnet8'"),
    (('--network=resnet8', '--data=digits'), 'no file of weights'),
  ],
)
def test_what_weights_lack_is_one_line(more, cure, capsys):
  assert evaluate.main(['gone.safetensors', *more]) == 2
  error = capsys.readouterr().err
  assert error.count('\n') == 1
  assert cure in error


@pytest.mark.parametrize(
  'more',
  [
    ('--image_size=64',),
    ('--mean', '0', '0', '0'),
    ('--std', '1', '1', '1'),
    ('--key=model',),
  ],
)
def test_what_is_for_weights_is_refused_with_a_run(more, capsys):
  assert evaluate.main(['run', *more]) == 2
  name = more[0].partition('=')[0]
  assert f'{name} is for a file of weights' in capsys.readouterr().err


def test_a_given_mean_and_std_serve_where_the_data_have_none(tmp_path, capsys):
  command = ['gone.safetensors', '--network=resnet8']
  command += [f'--data={folder(tmp_path, 10)}']
  assert evaluate.main(command) == 2
  assert 'give mean and std' in capsys.readouterr().err
  seen = ['--mean', '0.5', '0.5', '0.5', '--std', '0.25', '0.25', '0.25']
  assert evaluate.main([*command, *seen]) == 2
  assert 'no file of weights' in capsys.readouterr().err
