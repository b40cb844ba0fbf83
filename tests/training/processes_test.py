"""Real processes with real collectives: 2 of them with 2 devices each."""

import contextlib
import json
import re
import shutil
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from kd_jax import errors
from kd_jax.runtime import checkpoint, distributed, run_dir, sharding
from kd_jax.training import picture, run
from tests import children, compiled
from tests.cli import train_test
from tests.training import processes_worker

WORKER = (sys.executable, '-m', 'tests.training.processes_worker')

# Sums of floats in another order; 3e-5 was seen after 25 steps of FFSD.
TOLERANCE = 1e-4


# Every method compiles in both processes: those beyond KD are a drill.
SETS = [
  pytest.param(('kd',), id='kd'),
  pytest.param(('ofd', 'ffsd', 'crd'), id='others', marks=pytest.mark.drill),
]


def of_two(folder, worker, *arguments, devices=2):
  """What two processes say, with so many devices each, which end as one.

  Args:
    folder: The folder that both are given.
    worker: The command.
    *arguments: What follows the folder.
    devices: The devices of each.
  """
  with socket.socket() as free:
    free.bind(('', 0))
    port = free.getsockname()[1]
  with contextlib.ExitStack() as ending:
    started = [
      ending.enter_context(
        children.Child(
          [*worker, str(folder), *arguments],
          cwd=train_test.ROOT,
          env=train_test.environment(
            XLA_FLAGS=compiled.quick(),
            JAX_NUM_CPU_DEVICES=str(devices),
            JAX_COORDINATOR_ADDRESS=f'127.0.0.1:{port}',
            JAX_NUM_PROCESSES='2',
            JAX_PROCESS_ID=str(i),
            KD_JAX_CACHE=str(folder / 'cache'),
          ),
          stdout=subprocess.PIPE,
          stderr=subprocess.STDOUT,
        )
      )
      for i in range(2)
    ]
    said = [process.communicate()[0] for process in started]
  for process, out in zip(started, said, strict=True):
    assert process.returncode == 0, out
    assert f'done 2 {2 * devices}' in out
  return said


@pytest.fixture(scope='module', params=SETS)
def trained(request, tmp_path_factory):
  """The folder of some methods' runs, what both processes said, the methods."""
  methods = request.param
  folder = tmp_path_factory.mktemp('two')
  said = of_two(folder, WORKER, *methods)
  return folder, said, methods


def restored(folder, mesh):
  """A run's state, on the devices of a mesh; its digest is checked."""
  checkpoints = checkpoint.Checkpoints(folder / 'checkpoints', read_only=True)
  step = checkpoints.latest()
  metadata = checkpoints._manager.item_metadata(step)
  whole = sharding.replicated(mesh)
  like = {
    name: jax.ShapeDtypeStruct(meta.shape, meta.dtype, sharding=whole)
    for name, meta in dict(metadata).items()
    if name != checkpoint.DIGEST
  }
  found = checkpoints.restore(step, like)
  checkpoints.close()
  return step, jax.tree.map(np.asarray, found)


def test_what_two_processes_saved_is_bit_equal_on_4_devices_and_on_1(trained):
  folder, _, methods = trained
  for method in methods:
    step, one = restored(folder / 'first' / method, sharding.make_mesh(1))
    again, four = restored(folder / 'first' / method, sharding.make_mesh(4))
    assert step == again == 5
    for name in one:
      np.testing.assert_array_equal(one[name], four[name], err_msg=name)


@pytest.mark.parametrize('devices', [4, 1])
def test_what_two_processes_began_goes_on_in_one_and_agrees(
  trained, tmp_path, monkeypatch, devices
):
  folder, _, methods = trained
  for method in methods if devices == 4 else methods[:1]:
    _goes_on(folder, method, devices, tmp_path / method, monkeypatch)


def _goes_on(folder, method, devices, place, monkeypatch):
  monkeypatch.setenv('KD_JAX_CACHE', str(folder / 'cache'))
  monkeypatch.setattr(picture, 'curves', lambda *_: None)
  shutil.copytree(folder / 'first' / method, place / 'run')
  config = processes_worker.config_of(method, 5)
  config.mesh.data = devices
  run.train(config, run_dir.Folder(place / 'run'))
  assert 'resuming at step 5' in (place / 'run/log.txt').read_text()
  (step, got), (other, want) = (
    restored(where, sharding.make_mesh(1))
    for where in (place / 'run', folder / 'more' / method)
  )
  assert step == other == 25
  assert set(got) == set(want)
  for name in want:
    np.testing.assert_allclose(
      got[name], want[name], rtol=TOLERANCE, atol=TOLERANCE, err_msg=name
    )


def test_process_0_alone_speaks_and_writes(trained):
  folder, (first, second), (method, *_) = trained
  assert 'resuming at step 5' in first
  more = folder / 'more' / method
  log = (more / 'log.txt').read_text()
  # The worker stops KD once more in between.
  resumed = ['5', '13'] if method == 'kd' else ['5']
  assert re.findall(r'resuming at step (\d+)', log) == resumed
  assert 'epoch' not in second
  records = (more / 'metrics.jsonl').read_text().splitlines()
  steps = [json.loads(line)['step'] for line in records]
  assert steps == sorted(set(steps))
  result = json.loads((more / 'result.json').read_text())
  assert result['processes'] == 2
  assert result['hardware'] == '4 x cpu'
  assert (more / 'curves.png').exists()


def test_half_an_environment_is_refused(monkeypatch):
  monkeypatch.setenv('JAX_PROCESS_ID', '1')
  with pytest.raises(errors.UsageError, match='set all three'):
    distributed.start(10)
  monkeypatch.setenv('JAX_COORDINATOR_ADDRESS', 'host:1')
  monkeypatch.setenv('JAX_NUM_PROCESSES', '1')
  with pytest.raises(errors.UsageError, match='give 0 to 0'):
    distributed.start(10)


def test_one_process_joins_nobody(monkeypatch):
  monkeypatch.setenv('JAX_COORDINATOR_ADDRESS', 'host:1')
  monkeypatch.setenv('JAX_NUM_PROCESSES', '1')
  monkeypatch.setenv('JAX_PROCESS_ID', '0')
  distributed.start(10)
  assert not jax.distributed.is_initialized()
  assert distributed.gather('x') == ['x']
  assert distributed.first(lambda: 3) == 3
  assert distributed.poll(True)()
  assert not distributed.poll(False)()


@pytest.mark.parametrize(
  ('environment', 'several'),
  [
    ({}, False),
    ({'SLURM_JOB_ID': '7', 'SLURM_PROCID': '0', 'SLURM_NTASKS': '4'}, False),
    (
      {
        'SLURM_JOB_ID': '7',
        'SLURM_PROCID': '0',
        'SLURM_STEP_NODELIST': 'n[1-4]',
        'SLURM_NTASKS': '4',
      },
      True,
    ),
    ({'TPU_WORKER_HOSTNAMES': 'a', 'TPU_WORKER_ID': '0'}, False),
    ({'TPU_WORKER_HOSTNAMES': 'a,b', 'TPU_WORKER_ID': '0'}, True),
    (
      {
        'TPU_WORKER_HOSTNAMES': 'a,b',
        'TPU_WORKER_ID': '0',
        'JAX_PLATFORMS': 'cpu',
      },
      False,
    ),
  ],
)
def test_the_environment_says_whether_there_are_others(
  monkeypatch, environment, several
):
  for name in ('JAX_PLATFORMS', *distributed.EXPLICIT):
    monkeypatch.delenv(name, raising=False)
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  given = []
  monkeypatch.setattr(
    jax.distributed, 'initialize', lambda **own: given.append(own)
  )
  distributed.start(17)
  assert given == ([{'heartbeat_timeout_seconds': 17}] if several else [])
