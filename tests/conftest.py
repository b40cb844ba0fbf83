"""A strict session: four devices, no silent broadcasting, little compiling."""

import os

from tests import compiled

# Before JAX starts: tests need several devices and no cache of the user's.
os.environ.update(compiled.environment(), XLA_FLAGS=compiled.quick())

import jax

jax.config.update('jax_platforms', 'cpu')
jax.config.update('jax_num_cpu_devices', 4)
jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_disable_most_optimizations', True)

import pytest  # noqa: E402

from kd_jax import losses  # noqa: E402
from tests.children import (  # noqa: E402, F401  (fixtures of every test)
  no_process_is_left,
  nothing_is_left_open,
)
from tests.losses import shapes  # noqa: E402

# Whoever calls a loss in a test gives the shapes that its docstring writes.
shapes.guard(losses)

# Minutes long: first, so that no process is left alone with one at the end.
LONGEST = ('processes_test', 'contract_test', 'end_to_end_test', 'drill_test')


def pytest_collection_modifyitems(items):
  """Files of tests in the order in which processes take them."""
  items.sort(
    key=lambda item: item.module.__name__.split('.')[-1] not in LONGEST
  )


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
  """Networks that tests train are kept with the test session, not at home."""
  root = tmp_path_factory.getbasetemp() / 'cache'
  monkeypatch.setenv('KD_JAX_CACHE', os.fspath(root))
