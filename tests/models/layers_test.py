"""Layers beside those of Linen, against Linen's."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from kd_jax.models import layers


def gradients(module, variables, x, weights):
  def loss(variables, x):
    return (module.apply(variables, x) * weights).sum()

  return jax.jit(jax.grad(loss, argnums=(0, 1)))(variables, x)


@pytest.mark.parametrize('shape', [(2, 5, 3, 4), (3, 8, 8, 6)])
@pytest.mark.parametrize(
  ('kernel', 'padding', 'output_padding', 'dilated'),
  [(3, 1, 1, (1, 2)), (4, 1, 0, (2, 2))],
)
def test_a_transposed_convolution_equals_linens_with_its_gradients(
  shape, kernel, padding, output_padding, dilated
):
  ours = layers.ConvTranspose(7, kernel, padding, output_padding)
  linens = nn.ConvTranspose(
    7, (kernel, kernel), (2, 2), padding=(dilated, dilated)
  )
  x = jax.random.normal(jax.random.key(0), shape)
  variables = linens.init(jax.random.key(1), x)
  found, want = ours.apply(variables, x), linens.apply(variables, x)
  assert found.shape == (shape[0], 2 * shape[1], 2 * shape[2], 7)
  np.testing.assert_array_equal(found, want)
  weights = jax.random.normal(jax.random.key(2), want.shape)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
    gradients(ours, variables, x, weights),
    gradients(linens, variables, x, weights),
  )
