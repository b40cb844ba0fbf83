"""BatchNorm's sums as an NVIDIA GPU takes them, on a CPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.models import layers

SHAPE = (4, 6, 8, 5)


@pytest.fixture
def as_on_a_gpu(monkeypatch):
  def chosen(*args, cuda, default):
    del default
    return cuda(*args)

  monkeypatch.setattr(jax.lax, 'platform_dependent', chosen)


def normalised(group_size=0):
  """A function to the result, the stored variance, and all gradients."""
  norm = layers.BatchNorm(group_size=group_size)

  def step(x, weights):
    variables = norm.init(jax.random.key(0), x, train=True)

    def loss(params, x):
      given = {**variables, 'params': params}
      y, moved = norm.apply(given, x, train=True, mutable=['batch_stats'])
      return (y * weights).sum(), (y, moved['batch_stats']['var'])

    grad = jax.grad(loss, argnums=(0, 1), has_aux=True)
    slopes, (y, var) = grad(variables['params'], x)
    return y, var, slopes

  return step


def example(ratio, *shape):
  x, weights = np.random.default_rng(0).normal(size=(2, *shape))
  return np.float32(3 * (x + ratio)), np.float32(weights)


@pytest.mark.parametrize(
  ('shape', 'group_size'), [(SHAPE, 0), (SHAPE, 2), ((64, 5), 0)]
)
def test_sums_in_parts_are_as_exact_as_float64s(as_on_a_gpu, shape, group_size):
  x, weights = example(1000, *shape)
  y, var, (params, x_grad) = jax.jit(normalised(group_size))(x, weights)

  def split(values):
    groups = shape[0] // (group_size or shape[0])
    return np.float64(values).reshape(groups, -1, shape[-1])

  rows, slopes = split(x), split(weights)
  means, variances = (f(rows, 1, keepdims=True) for f in (np.mean, np.var))
  want = (rows - means) / np.sqrt(variances + 1e-5)
  bias, scale = (g.sum(axis=1, keepdims=True) for g in (slopes, slopes * want))
  wanted_grad = slopes - (bias + want * scale) / rows.shape[1]
  wanted_grad /= np.sqrt(variances + 1e-5)
  np.testing.assert_allclose(split(y), want, atol=1e-5)
  np.testing.assert_allclose(split(x_grad), wanted_grad, atol=1e-5)
  np.testing.assert_allclose(params['bias'], bias.sum((0, 1)), atol=1e-4)
  # A mean near 3000 is known to 1e-4, a deviation is 3; bias is up to 26.
  np.testing.assert_allclose(params['scale'], scale.sum((0, 1)), atol=1e-3)
  stored = (var - 0.9) / 0.1 * (1 - 1 / rows.shape[1])
  np.testing.assert_allclose(stored, variances.mean((0, 1)), rtol=1e-5)


def test_several_networks_in_one_program_have_sums_of_their_own(as_on_a_gpu):
  x, weights = example(10, 3, *SHAPE)
  found = jax.jit(jax.vmap(normalised()))(x, weights)
  apart = [
    jax.jit(normalised())(*given) for given in zip(x, weights, strict=True)
  ]
  want = jax.tree.map(lambda *arrays: np.stack(arrays), *apart)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
    found,
    want,
  )


@pytest.mark.parametrize(('platform', 'ends'), [('cuda', 1), ('cpu', 0)])
def test_a_gpu_ends_both_sums_in_one_reduction(platform, ends):
  def step(x, scale, y_grad):
    norm = layers.BatchNorm(shift='running')
    variables = norm.init(jax.random.key(0), x, train=True)

    def loss(scale, x):
      given = {**variables, 'params': {**variables['params'], 'scale': scale}}
      return (norm.apply(given, x, train=True) * y_grad).sum()

    return jax.grad(loss, argnums=(0, 1))(scale, x)

  x = jax.ShapeDtypeStruct((64, 16, 16, 8), jnp.float32)
  scale = jax.ShapeDtypeStruct((8,), jnp.float32)
  traced = jax.jit(step).trace(x, scale, x)
  text = traced.lower(lowering_platforms=(platform,)).as_text()
  # Of sums and squares, forward, and of two gradients, backward.
  assert text.count('(tensor<2x128x8xf32>') == 2 * ends
