"""A run whose teacher runs ahead of the student."""

import numpy as np
import pytest

from kd_jax import config as config_lib
from kd_jax.runtime import run_dir
from kd_jax.training import run
from tests.training.end_to_end_test import leaves

pytestmark = pytest.mark.drill


def config_of(folder):
  """Two epochs of five steps, in dispatches of five: two, two and one ahead."""
  config = config_lib.load('kd:digits')
  config.data.train_size, config.batch_size = 100, 20
  config.epochs, config.steps_per_dispatch, config.teacher_ahead = 2, 5, 2
  config.mesh.data, config.cache_dir = 1, str(folder / 'cache')
  config.student.args.widths = config.teacher.args.widths = (4, 4, 8, 16)
  config.teacher.recipe.epochs, config.teacher.expected_top1 = 1, 0.0
  return config


def train(config, folder, stops=()):
  calls = iter(range(1, 10**6))
  try:
    run.train(
      config, run_dir.Folder(folder), should_stop=lambda: next(calls) in stops
    )
  except run.Interrupted:
    assert stops
  return leaves(folder / 'checkpoints')


def test_a_run_that_is_stopped_goes_on_bit_for_bit(tmp_path, capsys):
  config = config_of(tmp_path)
  last, whole = train(config, tmp_path / 'whole')
  assert last == 10
  said = capsys.readouterr().out
  assert 'the teacher runs 2 steps ahead, in passes of 40 images' in said
  # The teacher is in the cache now, and only the student's dispatches ask.
  assert train(config, tmp_path / 'run', stops=(1,))[0] == 5
  last, again = train(config, tmp_path / 'run')
  assert last == 10
  for name, leaf in whole.items():
    np.testing.assert_array_equal(leaf, again[name], err_msg=name)


def test_it_is_the_run_without_to_rounding(tmp_path):
  config = config_of(tmp_path)
  _, with_it = train(config, tmp_path / 'with')
  config.teacher_ahead = 1
  _, without = train(config, tmp_path / 'without')
  for name, leaf in without.items():
    np.testing.assert_allclose(
      with_it[name], leaf, rtol=1e-3, atol=1e-4, err_msg=name
    )
