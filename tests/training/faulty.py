"""Runs kd_jax.main and injects faults at chosen moments, for the fault drill.

`python -m tests.training.faulty <options of kd_jax.main>` reads two variables
of the environment: FAULT_FOLDER, the folder where it writes the trace of
moments and the faults that it injected, and FAULTS, a JSON list of {moment,
count, action, process}. A fault is injected once, at the count-th time that the
process passes its moment.
"""

import collections
import contextlib
import errno
import json
import os
import pathlib
import signal
import threading
import time

import jax
from jax._src import compiler
from jax.experimental import multihost_utils
import numpy as np
from orbax.checkpoint._src.path import atomicity, deleter
from orbax.checkpoint._src.serialization import serialization

from kd_jax.cli import train as train_lib
from kd_jax.distill import evaluation
from kd_jax.runtime import checkpoint, distributed, run_dir
from kd_jax.training import loop, run

FOLDER = pathlib.Path(os.environ['FAULT_FOLDER'])
FAULTS = json.loads(os.environ.get('FAULTS', '[]'))
PROCESS = int(os.environ.get('JAX_PROCESS_ID', '0'))
BALLAST = 'ballast'  # the file that fills a disk

counts: collections.Counter[str] = collections.Counter()
role = ['run']


def moment(name):
  """Records that the process is at a moment, and injects its due faults."""
  name = f'{role[-1]}/{name}'
  counts[name] += 1
  with (FOLDER / f'trace-{PROCESS}').open('a') as file:
    file.write(f'{os.getpid()} {name} {counts[name]}\n')
  for i, fault in enumerate(FAULTS):
    wanted = (fault['moment'], fault['count'], fault['process'])
    done = FOLDER / f'hit-{i}-{PROCESS}'
    if wanted == (name, counts[name], PROCESS) and not done.exists():
      done.write_text(f'{time.time()} {os.getpid()}')
      act(fault['action'])


def act(action):
  """Performs a fault: 'hang', 'fail', 'fill' or a signal's name."""
  if action == 'hang':
    while True:
      time.sleep(1)
  if action == 'fail':
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
  if action == 'fill':
    with contextlib.suppress(OSError), (FOLDER / BALLAST).open('wb') as file:
      while True:
        file.write(b'0' * 4096)
        file.flush()
    return
  os.kill(os.getpid(), signal.Signals[action])


def before(owner, attribute, name):
  """Makes every call of a function pass the moment `name` first."""
  original = getattr(owner, attribute)

  def told(*args, **kwargs):
    moment(name)
    return original(*args, **kwargs)

  setattr(owner, attribute, told)


def before_async(owner, attribute, name):
  """Does what `before` does, for a coroutine function."""
  original = getattr(owner, attribute)

  async def told(*args, **kwargs):
    moment(name)
    return await original(*args, **kwargs)

  setattr(owner, attribute, told)


def during(owner, attribute, name):
  """Makes a call pass the moment `name` after 0.1 s, if it still runs."""
  original = getattr(owner, attribute)

  def told(*args, **kwargs):
    timer = threading.Timer(0.1, moment, (name,))
    timer.start()
    try:
      return original(*args, **kwargs)
    finally:
      timer.cancel()

  setattr(owner, attribute, told)


def install():
  """Patches kd_jax, JAX and Orbax to pass the drill's moments."""
  train, make, result = run.train, evaluation.make, run_dir.Folder.write_alone

  def trained(config, folder, label='', **kwargs):
    role.append('teacher' if label.endswith('teacher') else 'run')
    try:
      return train(config, folder, label, **kwargs)
    finally:
      role.pop()

  def made(*args, **kwargs):
    counted = make(*args, **kwargs)

    def told(*args):
      moment('evaluate')
      return counted(*args)

    return told

  def written(self, name, value):
    moment(f'write {name}')
    return result(self, name, value)

  def joined(*args, **kwargs):
    start(*args, **kwargs)
    # Gloo waits only 30 s for a late process in the first exchange. That is
    # done here, where no process has work that delays it.
    if jax.distributed.is_initialized():
      multihost_utils.process_allgather(np.zeros(1))

  run.train, evaluation.make, run_dir.Folder.write_alone = (
    trained,
    made,
    written,
  )
  start, distributed.start = distributed.start, joined
  before(loop.Loop, '__init__', 'start')
  before(loop.Loop, '_dispatch', 'dispatch')
  before(loop.Loop, '_save', 'save')
  before(checkpoint, 'save_only', 'final save')
  before_async(serialization, 'async_serialize_from_host', 'array write')
  before_async(atomicity.AtomicRenameTemporaryPath, 'finalize', 'commit')
  # Older versions of Orbax have no PathDeleter.
  deletes = getattr(deleter, 'PathDeleter', deleter.StandardCheckpointDeleter)
  before(deletes, 'delete', 'deletion')

  during(compiler, 'backend_compile_and_load', 'compile')


if __name__ == '__main__':
  install()
  train_lib.start()
