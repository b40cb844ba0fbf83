"""Stored losses and gradients of the original implementations.

The folder can be another one with the same schema: set KD_JAX_VECTORS.
"""

import json
import os
import pathlib

import numpy as np

STORED = pathlib.Path(__file__).parent.parent / 'vectors'


def load(name):
  """The arrays of a case file by key, and its 'meta' description."""
  folder = pathlib.Path(os.environ.get('KD_JAX_VECTORS', STORED))
  with np.load(folder / f'{name}.npz', allow_pickle=False) as file:
    arrays = {key: file[key] for key in file.files}
  return arrays, json.loads(str(arrays.pop('meta')))


def assert_near(got, want, rtol=1e-5, least=0.0):
  """|got - want| <= rtol * max(max|want|, least), shapes equal.

  rtol is 1e-5 for float32 alone and 1e-4 through batch norm; a gradient's
  `least` is 1e-2 of the largest gradient of its case, as gradients that are
  zero in exact arithmetic are noise.
  """
  got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
  assert got.shape == want.shape
  bound = rtol * max(np.abs(want).max(), least)
  np.testing.assert_allclose(got, want, rtol=0, atol=bound)
