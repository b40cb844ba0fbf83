"""Makes the scripts of benchmarks/gpu importable, as in their folder."""

import signal

import pytest

from tests.benchmark.gpu import scripts


@pytest.fixture(autouse=True)
def _scripts(monkeypatch):
  """Puts the scripts' folder on the path, and restores the signal handlers."""
  monkeypatch.syspath_prepend(str(scripts.ROOT / 'benchmarks' / 'gpu'))
  numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)
  handlers = {number: signal.getsignal(number) for number in numbers}
  yield
  for number, handler in handlers.items():
    signal.signal(number, handler)
