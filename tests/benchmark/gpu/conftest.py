"""The folder of the scripts on the path, as where they run."""

import signal

import pytest

from tests.benchmark.gpu import scripts


@pytest.fixture(autouse=True)
def _scripts(monkeypatch):
  """Puts their folder on the path, and restores the signals that they set."""
  monkeypatch.syspath_prepend(str(scripts.ROOT / 'benchmarks' / 'gpu'))
  numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)
  kept = {number: signal.getsignal(number) for number in numbers}
  yield
  for number, handler in kept.items():
    signal.signal(number, handler)
