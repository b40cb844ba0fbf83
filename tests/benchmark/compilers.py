"""XLA's compilers for chips, where they are installed."""

import importlib.util
import os

import pytest

_PLUGINS = {
  'h100': ('jax_cuda13_plugin', 'jax_cuda12_plugin'),
  'v5e:2x2': ('libtpu',),
}
_EXTRAS = {'h100': 'cuda13', 'v5e:2x2': 'tpu'}


def param(place, *values):
  """Returns a test's parameters; it is skipped without a compiler for `place`.

  `pytest -m chips` selects the tests of all places. With KD_JAX_CHIPS in the
  environment none is skipped.
  """
  found = any(map(importlib.util.find_spec, _PLUGINS[place]))
  found = found or 'KD_JAX_CHIPS' in os.environ
  reason = f"needs XLA's compiler for {place}: kd_jax[{_EXTRAS[place]}]"
  skip = pytest.mark.skipif(not found, reason=reason)
  return pytest.param(place, *values, marks=(skip, pytest.mark.chips))
