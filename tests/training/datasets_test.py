"""A run is measured on the data that it was trained on, from anywhere."""

import json
import shutil

import numpy as np
from PIL import Image
import pytest

from kd_jax import data, errors
from kd_jax.cli import evaluate
from kd_jax.data.sets import digits
from kd_jax.export import artifact
from kd_jax.training import datasets, restore
from tests import finished


@pytest.fixture
def place(tmp_path):
  """A finished run of `folder:digits`, which lies beside it."""
  for split, role in (('train', 'train'), ('test', 'val')):
    part = digits.read(split)
    for i in [int(np.argmax(part.labels == k)) for k in range(10)]:
      folder = tmp_path / 'there/digits' / role / str(part.labels[i])
      folder.mkdir(parents=True)
      Image.fromarray(part.image[i]).save(folder / '0.png')
  shutil.copytree(finished.places() / 'kd', tmp_path / 'run')
  data.open_source.cache_clear()
  there = tmp_path / 'there/digits'
  info = data.open_source(f'folder:{there}').info
  info = info._replace(name='folder:digits')
  file = tmp_path / 'run/config.json'
  config = json.loads(file.read_text())
  config['data'].update(name=info.name, train_size=0)
  config['data_facts'] = info.identity()
  file.write_text(json.dumps(config))
  (tmp_path / 'run/data.json').write_text(json.dumps({'place': info.place}))
  return there


def opened(path):
  data.open_source.cache_clear()
  found = restore.load(path)
  there = datasets.open_data(found)
  return there, datasets.changed(found, there)


def test_a_run_finds_its_data_from_another_directory(
  place, tmp_path, monkeypatch, capsys
):
  monkeypatch.chdir(tmp_path)
  there, changed = opened('run')
  assert there.info.place == str(place)
  assert not changed
  # Where the data have moved, the name holds as it did in the training.
  place.rename(tmp_path / 'digits')
  there, changed = opened('run')
  assert there.info.place == str(tmp_path / 'digits')
  assert not changed
  # Other data under this name are measured, and said to be others.
  (tmp_path / 'digits/val/3/0.png').rename(tmp_path / 'digits/val/3/1.png')
  data.open_source.cache_clear()
  assert evaluate.main(['run', '--json=figures.json']) == 0
  line = 'has changed since the network was trained on it: of 20 files and '
  assert line in capsys.readouterr().out
  figures = json.loads((tmp_path / 'figures.json').read_text())
  assert '1 gone (val/3/0.png)' in figures['changed']


def test_a_runs_data_are_reopened_with_its_own_normalisation(place, tmp_path):
  file = tmp_path / 'run/config.json'
  config = json.loads(file.read_text())
  mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
  config['data_facts'] |= {'mean': mean, 'std': std}
  file.write_text(json.dumps(config))
  there, changed = opened(tmp_path / 'run')
  assert (there.info.mean, there.info.std) == (mean, std)
  assert not changed


def test_data_that_are_gone_are_one_line(place, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  shutil.rmtree(place)
  data.open_source.cache_clear()
  assert evaluate.main(['run']) == 2
  error = capsys.readouterr().err
  assert error.count('\n') == 1
  assert "--data='folder:digits', on which it was trained, are not" in error
  assert f'here or at {place}, where' in error


def test_an_export_tells_no_path_of_this_machine(place, tmp_path):
  with artifact.beside(tmp_path / 'out') as folder:
    artifact.write(restore.load(tmp_path / 'run'), folder)
  text = (tmp_path / 'out' / artifact.FACTS).read_text()
  assert str(place) not in text
  assert json.loads(text)['data']['fingerprint']
  with pytest.raises(errors.UsageError, match='are not here: give'):
    opened(tmp_path / 'out')
