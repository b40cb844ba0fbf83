"""Finds XLA's compilers for chips that are installed."""

import importlib.util
import os

import pytest

_PLUGINS = {
  'h100': ('jax_cuda13_plugin', 'jax_cuda12_plugin'),
  'v5e:2x2': ('libtpu',),
}
_EXTRAS = {'h100': 'cuda13', 'v5e:2x2': 'tpu'}


def param(place, *values):
  """Returns the parameters of a test that needs a chip's compiler.

  The test is skipped if the compiler is not installed, and KD_JAX_CHIPS is not
  in the environment. `pytest -m chips` selects the tests of all chips.

  Args:
    place: The chip, a key of `_PLUGINS`.
    *values: Further parameters of the test.
  """
  enabled = any(map(importlib.util.find_spec, _PLUGINS[place]))
  enabled = enabled or 'KD_JAX_CHIPS' in os.environ
  reason = f"needs XLA's compiler for {place}: kd_jax[{_EXTRAS[place]}]"
  skip = pytest.mark.skipif(not enabled, reason=reason)
  return pytest.param(place, *values, marks=(skip, pytest.mark.chips))
