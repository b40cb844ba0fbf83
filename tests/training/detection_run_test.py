"""Runs on scenes with boxes go on, are measured, exported, and predict."""

import json
import shutil

import numpy as np
from PIL import Image
import pytest

from kd_jax import errors
from kd_jax.cli import evaluate, predict
from kd_jax.cli import export as export_command
from kd_jax.export import artifact
from kd_jax.runtime import run_dir
from kd_jax.training import measure, restore, run
from tests import few_scenes
from tests.cli import train_test
from tests.training.end_to_end_test import leaves

SIDES = (96, 72)


def config_of(devices=1):
  """Two epochs of four steps, saved after each; no teacher."""
  config = train_test.configuration('ce').get_config('scenes_detection')
  config.data.name = 'tests.few_scenes:opened_boxed'
  config.mesh.data, config.batch_size, config.eval_batch_size = devices, 8, 4
  config.student.name = 'ssd48_resnet10'
  with config.student.args.unlocked():
    config.student.args.widths = (8, 8, 8, 8, 8)
  config.epochs, config.checkpoint_every = 2, 1.0
  config.checkpoint_seconds = 0.0
  # From 1% on, detections of a network that has learnt little are many.
  config.optimizer.learning_rate.value = 1e-3
  return config


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """A folder with the finished run 'run', its export and an image."""
  folder = tmp_path_factory.mktemp('detection')
  run.train(config_of(), run_dir.Folder(folder / 'run'))
  with artifact.beside(folder / 'out') as target:
    trained = restore.load(folder / 'run', allow_imports=True)
    artifact.write(trained, target)
  export_command.check(trained, artifact.read(folder / 'out'))
  image = Image.fromarray(few_scenes.boxed('test').image[0])
  image.resize(SIDES).save(folder / 'a.png')
  return folder


def result(place):
  return json.loads((place / 'run/result.json').read_text())


def test_a_run_goes_on_in_the_middle_bit_for_bit(place, tmp_path, capsys):
  shutil.copytree(place / 'run', tmp_path / 'run')
  step, want = leaves(tmp_path / 'run/checkpoints')
  assert step == 8
  (tmp_path / 'run/result.json').unlink()
  shutil.rmtree(tmp_path / 'run/checkpoints/8')
  run.train(config_of(), run_dir.Folder(tmp_path / 'run'))
  assert 'resuming at step 4' in capsys.readouterr().out
  step, got = leaves(tmp_path / 'run/checkpoints')
  assert step == 8
  assert set(got) == set(want)
  for name, leaf in want.items():
    np.testing.assert_array_equal(got[name], leaf, err_msg=name)
  assert result(tmp_path)['map'] == result(place)['map']


def figures(path):
  trained = restore.load(path, allow_imports=True)
  data = few_scenes.opened_boxed()
  return measure.accuracy(trained, data.split('test'), data.info, 4), trained


def test_a_run_is_measured_as_the_loop_did(place):
  got, trained = figures(place / 'run')
  assert result(place)['headline'] == 'map'
  assert got['map'] == pytest.approx(result(place)['map'], abs=1e-3)
  assert got['images'] == few_scenes.COUNTS['test'] == 10  # 4 + 4 + 2
  part = few_scenes.boxed('test')
  labels = part.labels[~part.others['difficult']]
  counts = np.bincount(labels[labels >= 0], minlength=10)
  assert [row['objects'] for row in got['classes']] == counts.tolist()
  aps = [row['ap'] for row in got['classes'] if row['ap'] is not None]
  assert np.mean(aps) == pytest.approx(got['map'])
  text = evaluate.text(
    trained, few_scenes.opened_boxed().info, 'test', got
  ).split('\n')
  assert text[1].startswith(f'mAP {got["map"]:.2f}%, by the area')
  assert text[2].split() == ['class', 'objects', 'AP']


def test_an_export_has_the_runs_precision_but_no_loss(place):
  want, _ = figures(place / 'run')
  got, _ = figures(place / 'out')
  # It returns the 200 strongest detections of an image, the run all.
  assert got['map'] == pytest.approx(want['map'], abs=0.5)
  objects = [[row['objects'] for row in x['classes']] for x in (got, want)]
  assert objects[0] == objects[1]
  assert 'loss' not in got


def test_an_export_that_says_another_task_is_not_run(place, tmp_path):
  shutil.copytree(place / 'out', tmp_path / 'out')
  file = tmp_path / 'out/network.json'
  facts = json.loads(file.read_text())
  assert facts['task'] == 'detection'
  file.write_text(json.dumps({**facts, 'task': 'classification'}))
  with pytest.raises(errors.UsageError, match='returns something else'):
    artifact.read(tmp_path / 'out')


def test_predictions_are_lines_of_json_in_pixels_of_the_image(place, capsys):
  arguments = [str(place / 'out'), str(place / 'a.png')]
  assert predict.main(arguments) == 0
  lines = capsys.readouterr().out.splitlines()
  rows = [json.loads(line) for line in lines]
  assert rows
  for row in rows:
    assert row['file'] == str(place / 'a.png')
    assert row['class'] in '0123456789'
    x1, y1, x2, y2 = row['box']
    assert 0 <= x1 <= x2 <= SIDES[0]
    assert 0 <= y1 <= y2 <= SIDES[1]
  scores = [row['score'] for row in rows]
  assert scores == sorted(scores, reverse=True)
  assert min(scores) >= 0.01
