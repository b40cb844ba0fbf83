"""Real processes with real collectives: 2 of them with 2 devices each."""

import os
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest

from kd_jax import runs, trainer
from tests import main_test, processes_worker
from tests.end_to_end_test import leaves

# Sums of floats in another order; seen after 20 steps: see the note in the test
TOLERANCE = 1e-4


def both(folder, epochs, *methods):
  """Runs the worker as two processes with two devices each."""
  with socket.socket() as free:
    free.bind(('', 0))
    port = free.getsockname()[1]
  started = [
    subprocess.Popen(
      [
        sys.executable,
        '-m',
        'tests.processes_worker',
        folder,
        epochs,
        *methods,
      ],
      cwd=main_test.ROOT,
      env={
        **os.environ,
        'JAX_PLATFORMS': 'cpu',
        'JAX_NUM_CPU_DEVICES': '2',
        'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
        'JAX_COMPILATION_CACHE_DIR': main_test.compiled(),
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
        'JAX_COORDINATOR_ADDRESS': f'127.0.0.1:{port}',
        'JAX_NUM_PROCESSES': '2',
        'JAX_PROCESS_ID': str(i),
      },
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for i in range(2)
  ]
  said = [process.communicate(timeout=500)[0] for process in started]
  for process, out in zip(started, said, strict=True):
    assert process.returncode == 0, out
    assert 'done 2 4' in out
  return said


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """Every method after 5 steps of two processes, and after 20 more."""
  first = tmp_path_factory.mktemp('first')
  more = tmp_path_factory.mktemp('more')
  said = both(str(first), '1', *processes_worker.METHODS)
  shutil.copytree(first, more, dirs_exist_ok=True)
  again = both(str(more), '5', *processes_worker.METHODS)
  return first, more, said, again


@pytest.mark.parametrize('method', processes_worker.METHODS)
def test_what_two_processes_saved_goes_on_in_one(trained, tmp_path, method):
  first, more, *_ = trained
  step, saved = leaves(first / method / 'checkpoints')
  assert step == 5
  _, want = leaves(more / method / 'checkpoints')
  for devices in (4, 1):
    folder = tmp_path / str(devices)
    shutil.copytree(first / method, folder)
    config = processes_worker.config_of(method, 5)
    config.mesh.data = devices
    trainer.train(config, runs.Folder(folder))
    assert 'resuming at step 5' in (folder / 'log.txt').read_text()
    step, got = leaves(folder / 'checkpoints')
    assert step == 25
    assert set(got) == set(want) == set(saved)
    for name in want:
      np.testing.assert_allclose(
        got[name], want[name], rtol=TOLERANCE, atol=TOLERANCE, err_msg=name
      )
