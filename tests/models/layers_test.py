"""Layers beside those of Linen, against Linen's."""

import functools
import itertools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
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


# Parts of 16, 16 and 3 images; of 4, as 64x64 pixels are many; of one.
@pytest.mark.parametrize(
  ('shape', 'kernel', 'stride', 'dilation'),
  [
    ((35, 5, 6, 3), 3, 2, 1),
    ((35, 5, 6, 3), 3, 1, 2),
    ((6, 64, 64, 2), 1, 2, 1),
    ((2, 136, 136, 2), 7, 2, 1),
  ],
)
def test_a_kernels_gradient_by_parts_of_the_batch_equals_linens(
  shape, kernel, stride, dilation
):
  ours = layers.Conv(4, kernel, stride=stride, dilation=dilation)
  pad = dilation * (kernel // 2)
  linens = nn.Conv(
    4,
    (kernel, kernel),
    stride,
    padding=pad,
    kernel_dilation=dilation,
    use_bias=False,
  )
  x = jax.random.normal(jax.random.key(0), shape)
  variables = linens.init(jax.random.key(1), x)
  want = linens.apply(variables, x)
  weights = jax.random.normal(jax.random.key(2), want.shape)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-4),
    gradients(ours, variables, x, weights),
    gradients(linens, variables, x, weights),
  )


def test_parts_of_a_batch_are_summed_in_float32():
  x = jax.random.normal(jax.random.key(0), (500, 3, 3, 8))
  whole = layers.Conv(4, 3)
  variables = whole.init(jax.random.key(1), x)
  weights = jax.random.normal(jax.random.key(2), (500, 3, 3, 4))
  want, _ = gradients(whole, variables, x, weights)
  half = layers.Conv(4, 3, dtype=jnp.bfloat16)
  found, _ = gradients(half, variables, x, weights)
  want, found = want['params']['kernel'], found['params']['kernel']
  # A sum of the 16 parts in bfloat16 is 1.8 times as far.
  error = jnp.linalg.norm(found - want) / jnp.linalg.norm(want)
  assert 2e-3 < error < 4.5e-3


def images_at_once(module, x, platform, devices=1):
  """Returns the batch of each convolution that gives `module`'s gradient."""
  variables = module.init(jax.random.key(0), x)

  def loss(variables):
    return module.apply(variables, x).sum()  # needs no forward pass

  with layers.traced_for(devices):
    traced = jax.jit(jax.grad(loss)).trace(variables)
  text = traced.lower(lowering_platforms=(platform,)).as_text()
  lines = re.findall('.*stablehlo.convolution[(].*', text)
  return [int(re.search(r': \(tensor<(\d+)x', line)[1]) for line in lines]


@pytest.mark.parametrize(
  'module', [layers.Conv(4, 3), layers.ConvTranspose(4, 3, 1, 1)]
)
def test_a_cpu_never_takes_a_kernels_gradient_of_a_large_batch_at_once(module):
  images = functools.partial(images_at_once, module, jnp.zeros((40, 8, 8, 3)))
  assert images('cpu') == [16, 16, 8]
  assert images('cuda') == images('tpu') == [40]
  assert images('cpu', devices=2) == [40]


def test_a_convolution_of_groups_takes_its_batch_at_once():
  module = layers.Conv(6, 3, groups=3)
  assert images_at_once(module, jnp.zeros((40, 8, 8, 3)), 'cpu') == [40]


@pytest.mark.parametrize(
  ('kernel', 'stride', 'dilation', 'padding', 'linens'),
  [(3, 1, 2, None, 2), (3, 2, 4, None, 4), (1, 1, 8, None, 0), (3, 1, 2, 0, 0)],
)
def test_a_dilated_convolution_equals_linens(
  kernel, stride, dilation, padding, linens
):
  ours = layers.Conv(5, kernel, stride, dilation=dilation, padding=padding)
  other = nn.Conv(
    5,
    (kernel, kernel),
    (stride, stride),
    padding=((linens, linens),) * 2,
    kernel_dilation=dilation,
    use_bias=False,
  )
  x = jax.random.normal(jax.random.key(0), (2, 9, 7, 3))
  variables = other.init(jax.random.key(1), x)
  found, want = ours.apply(variables, x), other.apply(variables, x)
  np.testing.assert_array_equal(found, want)


class Pair(nn.Module):
  """A convolution and the BatchNorm after it, as one or one by one."""

  together: bool
  stride: int
  bias: bool
  mode: str = 'auto'
  group_size: int = 0
  dtype: jnp.dtype = jnp.float32
  dilation: int = 1

  @nn.compact
  def __call__(self, x, *, train):
    bias_init = nn.initializers.normal() if self.bias else None
    conv = layers.Conv(
      6,
      3,
      self.stride,
      dilation=self.dilation,
      dtype=self.dtype,
      bias_init=bias_init,
      name='conv',
    )
    norm = layers.BatchNorm(self.mode, self.group_size, name='bn')
    if self.together:
      return norm(x, train=train, after=conv)
    return norm(conv(x), train=train)


def pair_variables(module, x):
  """Its variables, with parameters and statistics far from their first."""
  variables = module.init(jax.random.key(0), x, train=True)
  count = itertools.count(1)

  def moved(leaf):
    key = jax.random.key(next(count))
    return leaf + jax.random.uniform(key, leaf.shape, minval=0.5)

  return jax.tree.map(moved, variables)


@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('bias', [False, True])
@pytest.mark.parametrize('train', [False, True])
@pytest.mark.parametrize('shape', [(4, 7, 5, 3), (2, 8, 8, 3)])
def test_batch_norm_after_a_convolution_is_the_two_one_by_one(
  shape, train, bias, stride
):
  # By batch statistics, by running ones, and by running ones that are folded.
  x = jax.random.normal(jax.random.key(9), shape)
  one, two = (Pair(each, stride, bias, 'auto', 2) for each in (True, False))
  variables = pair_variables(two, x)

  def both(module):
    return module.apply(variables, x, train=train, mutable=['batch_stats'])

  (found, moved), (want, want_moved) = both(one), both(two)
  np.testing.assert_array_equal(found, want)
  jax.tree.map(np.testing.assert_array_equal, moved, want_moved)
  folded, made = one.apply(
    variables, x, train=train, mutable=['batch_stats', layers.FOLDED]
  )
  assert (layers.FOLDED in made) == (not train)
  np.testing.assert_allclose(folded, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('mean', [0.0, 30.0])
def test_in_bfloat16_what_is_folded_is_as_near_to_float32(mean):
  x = jax.random.normal(jax.random.key(9), (4, 8, 8, 3)) + mean
  exact = Pair(True, 1, True)
  variables = pair_variables(exact, x)
  _, moved = exact.apply(variables, x, train=True, mutable=['batch_stats'])
  want = exact.apply({**variables, **moved}, x, train=False)
  half = Pair(True, 1, True, dtype=jnp.bfloat16)
  given = {**variables, **moved}
  folded, _ = half.apply(given, x, train=False, mutable=[layers.FOLDED])
  found = half.apply(given, x, train=False)
  assert folded.dtype == found.dtype == jnp.bfloat16
  off = [
    np.abs(each.astype(jnp.float32) - want).mean() for each in (folded, found)
  ]
  # Either rounds kernel, convolution and result once, at other places.
  assert off[0] < 1.5 * off[1]


def test_what_is_folded_is_read_in_place_of_what_it_was_made_of():
  x = jax.random.normal(jax.random.key(9), (2, 8, 8, 3))
  net = Pair(True, 1, True)
  variables = pair_variables(net, x)
  want, made = net.apply(variables, x, train=False, mutable=[layers.FOLDED])
  assert jax.tree.map(jnp.shape, made) == {
    layers.FOLDED: {'bn': {'kernel': (3, 3, 3, 6), 'offset': (6,)}}
  }
  zeros = jax.tree.map(jnp.zeros_like, variables)
  found = net.apply({**zeros, **made}, x, train=False)
  np.testing.assert_array_equal(found, want)


class Shared(nn.Module):
  """One convolution before two BatchNorms."""

  @nn.compact
  def __call__(self, x, *, train):
    conv = layers.Conv(6, 3, name='conv')
    return [
      layers.BatchNorm(name=f'bn{i}')(x, train=train, after=conv)
      for i in (1, 2)
    ]


def test_a_convolution_may_stand_before_two_batch_norms():
  x = jax.random.normal(jax.random.key(9), (2, 8, 8, 3))
  net = Shared()
  variables = pair_variables(net, x)
  want = net.apply(variables, x, train=False)
  _, made = net.apply(variables, x, train=False, mutable=[layers.FOLDED])
  found = net.apply({**variables, **made}, x, train=False)
  for a, b in zip(found, want, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_a_dilated_convolution_is_folded_too():
  x = jax.random.normal(jax.random.key(9), (2, 8, 8, 3))
  net = Pair(True, 1, False, dilation=3)
  variables = pair_variables(net, x)
  want = net.apply(variables, x, train=False)
  found, made = net.apply(variables, x, train=False, mutable=[layers.FOLDED])
  assert made
  np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)


def test_nothing_is_folded_where_batch_statistics_are_used():
  x = jax.random.normal(jax.random.key(9), (2, 8, 8, 3))
  net = Pair(True, 1, True, 'batch')
  variables = pair_variables(net, x)
  _, made = net.apply(variables, x, train=False, mutable=[layers.FOLDED])
  assert not made


@pytest.mark.parametrize('ratio', [0, 10, 100, 1000])
@pytest.mark.parametrize(
  ('shape', 'group_size'), [((8, 6, 6, 4), 0), ((8, 6, 6, 4), 4), ((64, 4), 0)]
)
def test_fresh_statistics_are_those_of_float64_whatever_the_mean(
  shape, group_size, ratio
):
  rng = np.random.default_rng(0)
  x, weights = rng.normal(size=(2, *shape)).astype(np.float32)
  x = 3 * (x + np.float32(ratio))
  norm = layers.BatchNorm(group_size=group_size)
  variables = norm.init(jax.random.key(0), x, train=True)

  def loss(x):
    y, moved = norm.apply(variables, x, train=True, mutable=['batch_stats'])
    return (y * weights).sum(), (y, moved['batch_stats'])

  (_, (found, moved)), grad = jax.jit(jax.value_and_grad(loss, has_aux=True))(x)
  groups = shape[0] // (group_size or shape[0])

  def split(x):
    return x.reshape(groups, -1, shape[-1]).astype(np.float64)

  rows, slopes = split(x), split(weights)
  mean, var = (f(rows, 1, keepdims=True) for f in (np.mean, np.var))
  inverse = 1 / np.sqrt(var + 1e-5)
  want = (rows - mean) * inverse
  want_grad = inverse * (
    slopes
    - slopes.mean(1, keepdims=True)
    - want * (slopes * want).mean(1, keepdims=True)
  )
  for ours, theirs in ((found, want), (grad, want_grad)):
    np.testing.assert_allclose(split(np.asarray(ours)), theirs, atol=1e-5)
  stored = (moved['var'] - 0.9) / 0.1 * (1 - 1 / rows.shape[1])
  np.testing.assert_allclose(stored, var.mean(axis=(0, 1)), rtol=1e-5)
