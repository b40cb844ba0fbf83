"""`kd-jax reproduce run` for real: stopped, killed, and gone on with."""

import json
import signal
import tempfile

import pytest

from kd_jax.cli import app
from tests.cli import train_test

# 30 steps of a student, of a teacher with 10, on 100 of the embedded images.
CONFIG = """
from kd_jax import config as base


def get_config(recipe=None):
  config = base.load('kd:digits')
  config.recipe = 'tiny'
  config.data.train_size, config.batch_size, config.epochs = 100, 20, 6
  config.student.args.widths = (4, 4, 8, 16)
  config.teacher.name = 'resnet8'
  config.teacher.args.widths = (4, 4, 8, 16)
  config.teacher.recipe.epochs, config.teacher.recipe.batch_size = 2, 20
  config.teacher.expected_top1 = 0.0
  config.eval_every, config.checkpoint_every = 2.0, 1.0
  return config
"""
CELLS = """
[[group]]
paper = "none"
table = "none"
data = "digits"
teacher = "resnet8"
student = "resnet8"
certainty = "none"
cells = [{recipe = "mine.py:tiny"}]
"""
TIMES = ('wall_s', 'time_s', 'images_per_s')


def reproduce(folder, *arguments, code=0, faults=(), **environment):
  """Runs the command in a folder; returns what it said."""
  folder.mkdir(exist_ok=True)
  (folder / 'mine.py').write_text(CONFIG)
  (folder / 'cells.toml').write_text(CELLS)
  started = train_test.start(
    'reproduce',
    *arguments,
    '--cells=cells.toml',
    module='tests.reproduce.disturbed',
    cwd=folder,
    KD_JAX_CACHE=str(folder / 'cache'),
    FAULT_FOLDER=tempfile.mkdtemp(prefix='fault-', dir=folder),
    FAULTS=json.dumps(
      [
        {'moment': moment, 'count': count, 'action': 'SIGKILL', 'process': 0}
        for moment, count in faults
      ]
    ),
    **environment,
  )
  with started:
    out, err = started.communicate()
  assert started.returncode == code, f'{out}\n{err}'
  return out


def without_times(value):
  if isinstance(value, dict):
    return {k: without_times(v) for k, v in value.items() if k not in TIMES}
  return [without_times(v) for v in value] if isinstance(value, list) else value


def held(folder):
  """The files of results by path, but for their times."""
  return {
    str(path.relative_to(folder)): without_times(json.loads(path.read_text()))
    for path in sorted((folder / 'results').rglob('*'))
    if path.is_file()
  }


RUN = ('run', 'mine.py:tiny', '--seeds=0,1')


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
  folder = tmp_path_factory.mktemp('undisturbed')
  said = reproduce(folder, *RUN)
  assert '2 done, 0 unfinished, 0 failed' in said
  assert 'the teacher takes about' in said
  assert 'the run takes about' in said
  # The second seed has the first one's teacher.
  assert said.count('teacher resnet8: top-1') == 2
  assert len([*(folder / 'cache').glob('networks-*/*/result.json')]) == 1
  return folder


@pytest.mark.drill
def test_stopped_and_killed_it_ends_with_the_same_files(
  undisturbed, tmp_path, monkeypatch, capsys
):
  folder = tmp_path / 'disturbed'
  # 0.4 minutes are 24 dispatches, less the 4 that are kept for saving.
  said = reproduce(folder, *RUN, '--minutes=0.4', code=75, DISPATCHES='1')
  assert '0 done, 2 unfinished, 0 failed' in said
  assert 'saved at step 2' in said
  assert not held(folder)
  monkeypatch.chdir(folder)
  listing = ['reproduce', 'list', '--cells=cells.toml', '--seeds=0,1']
  assert app.main(listing) == 0
  assert 'seed 0 unfinished at epoch 4.' in capsys.readouterr().out
  faults = [('run/dispatch', 5)]
  reproduce(folder, *RUN, code=-signal.SIGKILL, faults=faults)
  assert not held(folder)
  faults = [('run/keep', 1)]
  reproduce(folder, *RUN, code=-signal.SIGKILL, faults=faults)
  assert not held(folder)
  said = reproduce(folder, *RUN)
  assert '2 done, 0 unfinished, 0 failed' in said
  got, want = held(folder), held(undisturbed)
  assert got == want
  assert [*want] == [f'results/mine-tiny/seed-{seed}.json' for seed in (0, 1)]
  for seed, file in enumerate(want.values()):
    assert file['seed'] == file['result']['seed'] == file['config']['seed']
    assert file['seed'] == seed
    assert [row['epoch'] for row in file['metrics']] == [1, 2, 3, 4, 5, 6]
    assert str(undisturbed) not in json.dumps(file)
  assert app.main(listing) == 0
  assert '2 of 2 seeds' in capsys.readouterr().out
  assert app.main(['reproduce', *RUN, '--cells=cells.toml']) == 0
  assert 'nothing is missing' in capsys.readouterr().out
