"""The stored losses and gradients of the original implementations.

KD_JAX_VECTORS may name another folder with the same schema.
"""

import json
import os
import pathlib

import jax
import numpy as np

STORED = pathlib.Path(__file__).parent.parent / 'vectors'


def load(name):
  """Returns the arrays of a case file by key, and its 'meta' description."""
  folder = pathlib.Path(os.environ.get('KD_JAX_VECTORS', STORED))
  with np.load(folder / f'{name}.npz', allow_pickle=False) as file:
    arrays = {key: file[key] for key in file.files}
  return arrays, json.loads(str(arrays.pop('meta')))


def assert_near(got, want, rtol=1e-5, least=0.0):
  """Asserts equal shapes and |got - want| <= rtol * max(max|want|, least).

  rtol is 1e-5 for float32 alone and 1e-4 through batch norm. For a gradient,
  `least` is 1e-2 of the largest gradient of its case, as gradients that are
  zero in exact arithmetic are noise.

  Args:
    got: The computed array.
    want: The stored array.
    rtol: The tolerance, relative to the largest entry.
    least: The smallest scale of the tolerance.
  """
  got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
  assert got.shape == want.shape
  bound = rtol * max(np.abs(want).max(), least)
  np.testing.assert_allclose(got, want, rtol=0, atol=bound)


def nhwc(x):
  """Returns [N,C,H,W] as [N,H,W,C], and [N,C] unchanged."""
  return np.moveaxis(x, 1, -1)


def kernel(x):
  """Returns torch's kernel OIHW of a convolution as HWIO, or OI as IO."""
  return x.transpose(2, 3, 1, 0) if x.ndim == 4 else x.T


def largest(case, prefix):
  """Returns 1e-2 of the largest entry under the keys with a prefix."""
  keys = [key for key in case if key.startswith(prefix)]
  return 1e-2 * max(np.abs(case[key]).max() for key in keys)


def statistics(case, name):
  """Returns a BatchNorm's running statistics."""
  return {
    'mean': case[f'{name}.running_mean'],
    'var': case[f'{name}.running_var'],
  }


def assert_tree_near(got, want, rtol=1e-5, least=0.0):
  """Applies `assert_near` to the leaves of two trees of the same structure."""
  jax.tree.map(lambda a, b: assert_near(a, b, rtol, least), dict(got), want)
