import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kd_jax import errors, models
from kd_jax.distill import inspect
from kd_jax.models import layers
from tests import graphs, tiny

# torchvision's parameter counts with 1000 classes.
TORCHVISION = {
  'resnet18': 11_689_512,
  'resnet34': 21_797_672,
  'resnet50': 25_557_032,
  'resnet101': 44_549_160,
  'resnet152': 60_192_808,
}


def parameters(network, size):
  shapes = inspect.variables_of(network, size)['params']
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize('name', TORCHVISION)
def test_imagenet_resnets_have_torchvisions_parameter_counts(name):
  assert parameters(models.make(name, 1000), 64) == TORCHVISION[name]


# Counted by hand from the layer table of RepDistiller's resnet.py.
@pytest.mark.parametrize(
  ('name', 'count'), [('resnet20', 278_324), ('resnet8x4', 1_233_540)]
)
def test_cifar_resnets_have_repdistillers_parameter_counts(name, count):
  assert parameters(models.make(name, 100), 32) == count


def test_a_cifar_stage_halves_the_side_from_the_second_on():
  network = models.make('resnet8x4', 10)
  feats = inspect.trace(
    tiny.experiment(tiny.method('ce'), tx=optax.identity(), student=network),
    32,
    2,
  ).features['student']
  shapes = [
    feats[name].shape for name in ('stem', 'stage1', 'stage2', 'stage3')
  ]
  assert shapes == [
    (2, 32, 32, 32),
    (2, 32, 32, 64),
    (2, 16, 16, 128),
    (2, 8, 8, 256),
  ]


def test_stage_is_the_relu_of_stage_pre():
  network = tiny.network()
  _, changed = network.apply(
    tiny.variables(network),
    tiny.batch()['image'],
    train=False,
    mutable=['intermediates'],
  )
  taps = changed['intermediates']
  assert (taps['stage2_pre'] < 0).any()
  np.testing.assert_array_equal(
    taps['stage2'], np.maximum(taps['stage2_pre'], 0)
  )


def test_bfloat16_computes_near_float32_and_keeps_taps_in_float32():
  outputs = []
  variables = tiny.variables(tiny.network())
  for dtype in (jnp.float32, jnp.bfloat16):
    _, changed = tiny.network(dtype=dtype).apply(
      variables, tiny.batch()['image'], train=False, mutable=['intermediates']
    )
    outputs.append(changed['intermediates'])
  full, half = outputs
  assert half['stage3'].dtype == jnp.float32
  # bfloat16 keeps 8 bits of mantissa.
  scale = np.abs(full['logits']).max()
  np.testing.assert_allclose(half['logits'], full['logits'], atol=0.05 * scale)
  assert (half['logits'] != full['logits']).any()


def test_convolutions_start_as_kaiming_normal_fan_out():
  kernel = layers.conv_init(jax.random.key(0), (3, 3, 64, 128))
  assert np.std(kernel) == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.02)


def test_linear_layers_start_as_torchs():
  layer = layers.Linear(50)
  params = layer.init(jax.random.key(0), jnp.zeros((1, 400)))['params']
  for leaf in params.values():
    assert np.abs(leaf).max() <= 400**-0.5
    assert np.abs(leaf).max() > 0.9 * 400**-0.5


def batch_norm(x, train, stats=None, **kwargs):
  layer = layers.BatchNorm(**kwargs)
  variables = layer.init(jax.random.key(0), x, train=True)
  if stats:
    variables = {**variables, 'batch_stats': stats}
  y, changed = layer.apply(variables, x, train=train, mutable=['batch_stats'])
  return y, changed['batch_stats']


@pytest.mark.parametrize('shape', [(5, 3, 7, 4), (8, 4)])
def test_batch_norm_normalises_with_the_biased_and_keeps_the_unbiased_variance(
  shape,
):
  x = np.random.default_rng(0).normal(3.0, 2.0, shape).astype(np.float32)
  y, stats = batch_norm(x, train=True)
  axes = tuple(range(x.ndim - 1))
  mean, var = x.mean(axes), x.var(axes)
  np.testing.assert_allclose(y, (x - mean) / np.sqrt(var + 1e-5), atol=1e-4)
  np.testing.assert_allclose(stats['mean'], 0.1 * mean, rtol=1e-4)
  unbiased = x.var(axes, ddof=1)
  np.testing.assert_allclose(stats['var'], 0.9 + 0.1 * unbiased, rtol=1e-4)


def test_batch_norm_keeps_its_precision_where_the_mean_is_large():
  x = 1000 + np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)
  stats = {'mean': jnp.full((2,), 1000.0), 'var': jnp.ones((2,))}
  y, _ = batch_norm(x, train=True, stats=stats)
  exact = x.astype(np.float64)
  want = (exact - exact.mean(0)) / np.sqrt(exact.var(0) + 1e-5)
  np.testing.assert_allclose(y, want, atol=1e-3)


def test_batch_norm_modes_choose_the_statistics():
  x = np.random.default_rng(0).normal(3.0, 2.0, (8, 4)).astype(np.float32)
  by_batch, _ = batch_norm(x, train=True)
  by_running, _ = batch_norm(x, train=False)
  for mode, want in (('batch', by_batch), ('running', by_running)):
    for train in (True, False):
      got, stats = batch_norm(x, train=train, mode=mode)
      np.testing.assert_array_equal(got, want)
      assert (np.asarray(stats['mean']) != 0).any() == (mode == 'batch')


def test_batch_norm_groups_have_their_own_statistics():
  x = np.random.default_rng(0).normal(3.0, 2.0, (8, 2, 2, 4)).astype(np.float32)
  grouped, stats = batch_norm(x, train=True, group_size=4)
  halves = [batch_norm(half, train=True) for half in (x[:4], x[4:])]
  want = np.concatenate([y for y, _ in halves])
  np.testing.assert_allclose(grouped, want, rtol=1e-5, atol=1e-6)
  for name in ('mean', 'var'):
    mean = np.mean([s[name] for _, s in halves], axis=0)
    np.testing.assert_allclose(stats[name], mean, rtol=1e-5)


def test_batch_norm_refuses_a_group_that_does_not_divide_the_batch():
  with pytest.raises(ValueError, match='bn_group_size=3'):
    batch_norm(np.zeros((8, 4), np.float32), train=True, group_size=3)


def dilations(**fields):
  """The sides of the stages at 64 pixels, and the dilations of 3x3 kernels."""
  network = models.make('resnet50', 2, widths=(4,) * 5, **fields)
  image = jnp.zeros((1, 64, 64, 3))

  def maps(image):
    found = network.init(jax.random.key(0), image, train=False, mutable=True)
    return [found['intermediates'][f'stage{i}'] for i in range(1, 5)]

  graph = jax.make_jaxpr(maps)(image)
  sides = [x.aval.shape[1] for x in graph.jaxpr.outvars]
  convolutions = [
    equation
    for equation in graphs.convolutions(graph.jaxpr)
    if equation.invars[1].aval.shape[0] == 3
  ]
  return sides, [e.params['rhs_dilation'][0] for e in convolutions]


@pytest.mark.parametrize(
  ('fields', 'sides', 'stage3', 'stage4'),
  [
    ({}, [16, 8, 4, 2], 1, [1, 1, 1]),
    ({'output_stride': 16}, [16, 8, 4, 4], 1, [2, 2, 2]),
    ({'output_stride': 16, 'grid': (1, 2, 4)}, [16, 8, 4, 4], 1, [2, 4, 8]),
    ({'output_stride': 8, 'grid': (1, 2, 4)}, [16, 8, 8, 8], 2, [4, 8, 16]),
  ],
)
def test_stages_beyond_the_output_stride_are_dilated(
  fields, sides, stage3, stage4
):
  want = [1] * 7 + [stage3] * 6 + stage4
  assert dilations(stage_sizes=(3, 4, 6, 3), **fields) == (sides, want)


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'output_stride': 12}, "'imagenet' has the stride 4; give one of 4, 8"),
    ({'output_stride': 2}, 'give one of 4, 8'),
    ({'grid': (1, 2)}, r'grid=\(1, 2\): the last stage has 3 blocks'),
    ({'grid': (1, 0, 2)}, 'give a whole number, 1 or more each'),
  ],
)
def test_an_output_stride_or_a_grid_that_does_not_fit_is_refused(
  fields, message
):
  with pytest.raises(errors.UsageError, match=message):
    models.make('resnet50', 2, **fields)
