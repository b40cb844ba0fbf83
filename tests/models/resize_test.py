"""Resizing with aligned corners, against NumPy's interpolation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.models import layers


def interpolated(x, axis, length):
  """Maps with one side resized by `np.interp`, in float64."""
  size = x.shape[axis]
  positions = np.arange(length) * (size - 1) / max(length - 1, 1)
  return np.apply_along_axis(
    lambda row: np.interp(positions, np.arange(size), row), axis, x
  )


@pytest.mark.parametrize(
  ('source', 'target'),
  [((4, 5), (13, 9)), ((7, 3), (2, 1)), ((1, 1), (5, 3)), ((1, 4), (3, 4))],
)
def test_a_resized_map_is_interpolated_between_its_corners(source, target):
  x = np.random.default_rng(0).normal(size=(2, *source, 3)).astype(np.float32)
  found = layers.resize(x, *target)
  want = interpolated(interpolated(x, 1, target[0]), 2, target[1])
  assert found.shape == (2, *target, 3)
  np.testing.assert_allclose(found, want, atol=1e-6)  # float32


def test_corners_and_a_side_of_one_are_kept_exactly():
  x = np.random.default_rng(0).normal(size=(1, 4, 1, 2)).astype(np.float32)
  found = layers.resize(x, 13, 6)
  for corner in (0, -1):
    want = np.repeat(x[:, corner], 6, axis=1)
    np.testing.assert_array_equal(found[:, corner], want)


def test_a_map_of_the_same_size_is_the_map_itself():
  x = jnp.ones((1, 3, 4, 2))
  assert layers.resize(x, 3, 4) is x


def test_the_gradient_returns_each_pixel_its_shares():
  x = jnp.zeros((1, 2, 1, 1))
  grad = jax.grad(lambda x: layers.resize(x, 3, 1)[0, 1, 0, 0])(x)
  np.testing.assert_array_equal(grad.ravel(), [0.5, 0.5])
