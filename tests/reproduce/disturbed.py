"""Runs `kd-jax` and disturbs it; see tests/training/faulty.py.

A moment more is 'run/keep', before a finished run's file is written. With
DISPATCHES in the environment, the time of `--minutes` has a second for each
dispatch of a run, however fast the machine is.
"""

import functools
import os

from kd_jax.cli import app
from kd_jax.reproduce import pace, store
from tests.training import faulty

if __name__ == '__main__':
  faulty.install()
  faulty.before(store, 'write', 'keep')
  if 'DISPATCHES' in os.environ:
    pace.Budget = functools.partial(
      pace.Budget, clock=lambda: faulty.counts['run/dispatch']
    )
  app.start()
