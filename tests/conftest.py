"""A strict session: four devices, no silent broadcasting, cheap compilation."""

import gc
import os

from tests import compiled

# Set before JAX starts, so that it uses the session's cache of compiled
# programs and not the user's.
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

# Every call of a loss in a test must have the shapes of its docstring.
shapes.guard(losses)

# These take minutes. They run first, so that none runs alone at the end.
LONGEST = ('processes_test', 'contract_test', 'end_to_end_test', 'drill_test')


def pytest_collection_modifyitems(items):
  """Sorts the test files into the order in which processes take them."""
  items.sort(
    key=lambda item: item.module.__name__.split('.')[-1] not in LONGEST
  )


def pytest_collection_finish():
  """Spares the garbage collector what is imported, and most young objects.

  A session traces thousands of programs, whose many objects live on in JAX's
  caches; to look through all of them again and again took a tenth of its time.
  """
  gc.collect()
  gc.freeze()
  gc.set_threshold(50_000, 20, 50)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
  """Keeps the networks that tests train with the session, not at home."""
  root = tmp_path_factory.getbasetemp() / 'cache'
  monkeypatch.setenv('KD_JAX_CACHE', os.fspath(root))
