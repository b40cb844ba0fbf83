"""A run of segmentation from its first step to masks of an export."""

import contextlib
import runpy
import sys

import jax
import numpy as np
from PIL import Image
import pytest

from kd_jax.cli import predict
from kd_jax.data import resident
from kd_jax.distill import evaluation
from kd_jax.export import artifact
from kd_jax.runtime import run_dir, sharding
from kd_jax.training import restore
from tests import few_scenes
from tests.cli import train_test
from tests.methods import dense_test
from tests.training.phases_test import train

STEPS = 4  # of an epoch


@pytest.fixture(scope='module')
def places(tmp_path_factory):
  """A folder with a run of 2 epochs, the same in two parts, and an export."""
  folder = tmp_path_factory.mktemp('segmentation')
  config = train_test.configuration('ce').get_config('scenes_segmentation')
  config = few_scenes.smaller(config)
  config.data.crop_padding, config.data.flip = 2, True
  config.checkpoint_every, config.checkpoint_seconds = 1.0, 0.0
  train(config, folder / 'whole')
  train(config, folder / 'parts', steps=STEPS)
  train(config, folder / 'parts')
  trained = restore.load(folder / 'whole', allow_imports=True)
  with artifact.beside(folder / 'export') as target:
    artifact.write(trained, target, few_scenes.part('test'))
  return folder


def variables(folder):
  trained = restore.load(folder, allow_imports=True)
  return {name: np.asarray(value) for name, value in trained.weights.items()}


def test_a_resumed_run_equals_one_in_one_go_bit_for_bit(places):
  whole, parts = (variables(places / name) for name in ('whole', 'parts'))
  assert {*whole} == {*parts}
  for name, value in whole.items():
    np.testing.assert_array_equal(parts[name], value, err_msg=name)
  results = [
    run_dir.Folder(places / name).read('result.json')
    for name in ('whole', 'parts')
  ]
  assert results[0]['steps'] == 2 * STEPS
  assert results[0]['headline'] == 'miou'
  assert results[0]['protocol'] == 'last epoch, square'
  assert results[0]['miou'] == results[1]['miou'] > 0


def run_script(places, monkeypatch, capsys, *arguments):
  """What the export's predict.py prints, in lines."""
  script = str(places / 'export/predict.py')
  monkeypatch.setattr(sys, 'argv', [script, *map(str, arguments)])
  with contextlib.suppress(SystemExit):
    runpy.run_path(script, run_name='__main__')
  said = capsys.readouterr()
  return said.out.splitlines() + said.err.splitlines()


def test_an_exports_script_counts_as_the_run_did(places, monkeypatch, capsys):
  result = run_dir.Folder(places / 'whole').read('result.json')
  test = places / 'export/test.npz'
  (line,) = run_script(places, monkeypatch, capsys, test)
  labels = few_scenes.part('test').labels
  assert line.endswith(
    f' of {(labels != 255).sum()} pixels correct, mIoU {result["miou"]:.2f}%'
  )


def test_the_script_and_the_command_write_the_same_masks(
  places, tmp_path, monkeypatch, capsys
):
  images = few_scenes.part('test').image
  small, large = tmp_path / 'small.png', tmp_path / 'large.png'
  Image.fromarray(images[0]).save(small)
  Image.fromarray(images[1]).resize((50, 31)).save(large)
  np.save(tmp_path / 'both.npy', images[:2])
  (tmp_path / 'here').mkdir()
  monkeypatch.chdir(tmp_path / 'here')
  names = (small, large, tmp_path / 'both.npy')
  lines = run_script(places, monkeypatch, capsys, *names)
  written = ['small.classes.png', 'large.classes.png', 'both.classes.npy']
  assert [line.split('\t')[1] for line in lines] == written
  masks = str(tmp_path / 'masks')
  arguments = [str(places / 'export'), str(small), str(large)]
  assert predict.main([*arguments, '--out', masks]) == 0
  capsys.readouterr()
  for name, sides in (('small', (24, 24)), ('large', (50, 31))):
    with (
      Image.open(f'{name}.classes.png') as ours,
      Image.open(f'{masks}/{name}.png') as theirs,
    ):
      assert ours.mode == 'P'
      assert ours.size == theirs.size == sides
      assert ours.getpalette() == theirs.getpalette()
      np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
  both = np.load('both.classes.npy')
  assert both.dtype == np.uint8
  with Image.open('small.classes.png') as ours:
    np.testing.assert_array_equal(both[0], np.asarray(ours))
  # What is there already stays.
  before = (tmp_path / 'here/small.classes.png').read_bytes()
  (line,) = run_script(places, monkeypatch, capsys, small)
  assert line.startswith('predict.py: ')
  assert 'File exists' in line
  assert (tmp_path / 'here/small.classes.png').read_bytes() == before


def test_an_export_of_labels_that_do_not_fit_is_one_line(
  places, tmp_path, monkeypatch, capsys
):
  test = few_scenes.part('test')
  path = tmp_path / 'wrong.npz'
  np.savez(path, image=test.image[:2], label=test.labels[:2, 1:])
  (line,) = run_script(places, monkeypatch, capsys, path)
  assert line == 'predict.py: labels (2, 23, 24) of images (2, 24, 24)'


def test_four_devices_count_the_pixels_that_one_counts():
  network = dense_test.network()
  exp = evaluation.alone(network)
  arrays, info = few_scenes.part('test'), few_scenes.info()
  weights = jax.jit(
    lambda image: network.init(jax.random.key(0), image, train=False)
  )(np.zeros((2, few_scenes.SIZE, few_scenes.SIZE, 3), np.float32))
  found = []
  for devices in (1, 4):
    mesh = sharding.make_mesh(devices)
    split = resident.Resident(arrays, info, mesh)
    counts = evaluation.make(exp, split, mesh)
    args = (
      {'student': weights['params'], 'method': {}},
      {'student': {'batch_stats': weights['batch_stats']}, 'method': {}},
      {},
    )
    batches = [
      counts(*args, split.arrays, feed)['student']['sums']
      for feed in split.eval_feeds(4)
    ]
    found.append(evaluation.total(batches))
  one, four = found
  assert one['confusion'].sum() == (arrays.labels != 255).sum()
  np.testing.assert_array_equal(four['confusion'], one['confusion'])
  assert four['images'] == one['images'] == len(arrays)
