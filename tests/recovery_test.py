"""What a run does where its checkpoints are damaged."""

import gc

import numpy as np
import pytest

from kd_jax import errors, runs, trainer
from tests import main_test
from tests.end_to_end_test import leaves


def config_of():
  """Two epochs of four steps, saved after each; no teacher."""
  config = main_test.configuration('tfd').get_config('digits')
  config.data.train_size, config.batch_size = 80, 20
  config.epochs, config.checkpoint_every = 2, 1.0
  config.mesh.data = 1
  config.student.args.widths = (4, 4, 8, 16)
  return config


def damage(checkpoint):
  """Cuts the arrays of a checkpoint in half."""
  path = max(checkpoint.rglob('d/*'), key=lambda p: p.stat().st_size)
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


# Orbax leaves coroutines of reads behind that another read's failure ended.
@pytest.mark.filterwarnings(
  'ignore::pytest.PytestUnraisableExceptionWarning', 'ignore::RuntimeWarning'
)
def test_a_run_goes_on_from_the_newest_checkpoint_that_is_whole(
  tmp_path, capsys
):
  folder = runs.Folder(tmp_path / 'run')
  first = trainer.train(config_of(), folder)
  step, want = leaves(tmp_path / 'run/checkpoints')
  assert step == 8
  (tmp_path / 'run/result.json').unlink()
  damage(tmp_path / 'run/checkpoints/8')
  again = trainer.train(config_of(), folder)
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
    trainer.train(config_of(), folder)
  gc.collect()  # what Orbax left shows here, not in another test
  after = sorted(p.name for p in (tmp_path / 'run/checkpoints').iterdir())
  assert after == before
