"""What a run does where its checkpoints are damaged."""

import errno
import gc
import sys

import numpy as np
from orbax.checkpoint._src.serialization import serialization
import pytest

from kd_jax import errors
from kd_jax.runtime import checkpoint, run_dir
from kd_jax.training import run
from tests import children
from tests.cli import train_test
from tests.training.end_to_end_test import leaves


def config_of():
  """Two epochs of four steps, saved after each; no teacher."""
  config = train_test.configuration('tfd').get_config('digits')
  config.data.train_size, config.batch_size = 80, 20
  config.epochs, config.checkpoint_every = 2, 1.0
  config.checkpoint_seconds = 0.0
  config.mesh.data = 1
  config.student.args.widths = (4, 4, 8, 16)
  return config


def damage(checkpoint):
  """Cuts the arrays of a checkpoint in half."""
  path = max(checkpoint.rglob('d/*'), key=lambda p: p.stat().st_size)
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_run_that_waits_for_another_can_be_stopped(tmp_path, capsys):
  folder = tmp_path / 'run'
  asked = iter([False, False, True])
  with (
    run_dir.Folder(folder).lock(wait=False),
    pytest.raises(run.Interrupted, match='while another run had'),
  ):
    run.train(
      config_of(),
      run_dir.Folder(folder),
      shared=True,
      should_stop=lambda: next(asked),
    )
  assert 'waiting for another run' in capsys.readouterr().out


def test_a_result_never_stands_beside_the_weights_of_more_epochs(
  tmp_path, monkeypatch
):
  config, folder = config_of(), run_dir.Folder(tmp_path / 'run')
  first = run.train(config, folder)
  config.epochs += 1

  def ended(*_):
    raise errors.RunError('ended here')

  with monkeypatch.context() as patched:
    patched.setattr(run, '_written', ended)
    with pytest.raises(errors.RunError, match='ended here'):
      run.train(config, folder)
  assert not (tmp_path / 'run/result.json').exists()
  second = run.train(config, folder)
  assert second['steps'] > first['steps']


# Orbax leaves coroutines of reads behind that another read's failure ended.
@pytest.mark.filterwarnings(
  'ignore::pytest.PytestUnraisableExceptionWarning', 'ignore::RuntimeWarning'
)
def test_a_run_goes_on_from_the_newest_checkpoint_that_is_whole(
  tmp_path, capsys
):
  folder = run_dir.Folder(tmp_path / 'run')
  first = run.train(config_of(), folder)
  step, want = leaves(tmp_path / 'run/checkpoints')
  assert step == 8
  (tmp_path / 'run/result.json').unlink()
  damage(tmp_path / 'run/checkpoints/8')
  again = run.train(config_of(), folder)
  said = capsys.readouterr().out
  assert 'checkpoints/8 is damaged' in said
  assert 'resuming at step 4' in said
  assert (tmp_path / 'run/damaged-8').is_dir()
  step, got = leaves(tmp_path / 'run/checkpoints')
  assert step == 8
  assert set(got) == set(want)
  for name, leaf in want.items():
    np.testing.assert_array_equal(got[name], leaf, err_msg=name)
  assert again['top1'] == first['top1']
  # What it spent before is not forgotten, and what was lost is said.
  assert {'starting', 'compiling', 'training', 'evaluating', 'saving'} < set(
    first['time_s']
  )
  assert 'lost to interruptions' not in first['time_s']
  assert again['time_s']['lost to interruptions'] > 0
  assert again['time_s']['starting'] > first['time_s']['starting']
  assert 'time ' in said

  (tmp_path / 'run/result.json').unlink()
  for kept in (tmp_path / 'run/checkpoints').glob('[0-9]*'):
    damage(kept)
  before = sorted(p.name for p in (tmp_path / 'run/checkpoints').iterdir())
  with pytest.raises(errors.RunError, match='no other to go on from'):
    run.train(config_of(), folder)
  gc.collect()  # what Orbax left shows here, not in another test
  after = sorted(p.name for p in (tmp_path / 'run/checkpoints').iterdir())
  assert after == before


def test_a_last_record_that_was_cut_off_is_made_again(tmp_path):
  folder = run_dir.Folder(tmp_path / 'run')
  first = run.train(config_of(), folder)
  (tmp_path / 'run/result.json').unlink()
  metrics = tmp_path / 'run/metrics.jsonl'
  metrics.write_text(metrics.read_text()[:-20])
  again = run.train(config_of(), folder)
  assert again['top1'] == first['top1']
  assert again['best_on_test'] == first['best_on_test']
  assert run_dir.Records(folder).read()[-1]['step'] == 8


@pytest.fixture
def full_disk(monkeypatch):
  """Makes writing the arrays of a checkpoint fail, so many times."""
  write, left = serialization.async_serialize_from_host, [0]

  async def failing(*args, **kwargs):
    if left[0]:
      left[0] -= 1
      raise OSError(errno.ENOSPC, 'No space left on device')
    return await write(*args, **kwargs)

  monkeypatch.setattr(serialization, 'async_serialize_from_host', failing)
  monkeypatch.setattr(checkpoint, '_PAUSES_S', (0.0, 0.0))
  return left


def test_a_failed_save_is_said_tried_again_and_keeps_the_older_one(
  tmp_path, capsys, full_disk
):
  want = run.train(config_of(), run_dir.Folder(tmp_path / 'undisturbed'))
  _, arrays = leaves(tmp_path / 'undisturbed/checkpoints')
  folder = run_dir.Folder(tmp_path / 'run')
  config = config_of()
  config.epochs = 1
  run.train(config, folder)
  capsys.readouterr()
  full_disk[0] = 1
  got = run.train(config_of(), folder)
  said = capsys.readouterr().out
  assert 'checkpoints/8 failed: ' in said
  assert 'No space left on device' in said
  assert 'step 4 is kept; trying again' in said
  step, found = leaves(tmp_path / 'run/checkpoints')
  assert step == 8
  for name, leaf in arrays.items():
    np.testing.assert_array_equal(found[name], leaf, err_msg=name)
  assert got['top1'] == want['top1']


def test_where_the_last_save_fails_every_time_the_run_ends_with_an_error(
  tmp_path, full_disk
):
  folder = run_dir.Folder(tmp_path / 'run')
  full_disk[0] = 10**6
  with pytest.raises(errors.RunError, match='No space left on device'):
    run.train(config_of(), folder)
  assert not (tmp_path / 'run/result.json').exists()
  full_disk[0] = 0
  assert run.train(config_of(), folder)['steps'] == 8


# By a clock of its own: a busy machine does not keep time.
HANG = """
import time, types
from kd_jax.runtime import watchdog
now = 0.0
watchdog.time = types.SimpleNamespace(monotonic=lambda: now)
with watchdog.Watchdog(1.0, 'config.limit') as dog:
  for i in range(3):
    now += 0.75
    time.sleep(0.5)  # it looks four times a second
    dog.beat(f'step {i}')
  now += 1.5
  time.sleep(1e6)
"""


def test_the_watchdog_ends_a_process_that_hangs_and_shows_where():
  ended = children.run([sys.executable, '-c', HANG])
  assert ended.returncode == 76
  assert 'line 12 in <module>' in ended.stderr
  assert 'after step 2 (config.limit=1); ended' in ended.stderr
