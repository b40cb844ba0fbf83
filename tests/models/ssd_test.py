"""SSDs compute what the original computes, and have what a detector needs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import boxes, errors, models, tasks
from kd_jax.models import ssd
from kd_jax.models.pretrained import convert
from tests.methods import vectors

DETECTORS = sorted(
  name
  for name in models.NETWORKS
  if models.task(models.make(name, 2)) == 'detection'
)
# For images of 16 pixels; the sources have 4 and 2 positions a side, and 1.
TWO = boxes.Priors(
  size=16, steps=(4, 8), least=(4, 8), most=(8, 16), ratios=((2,), ())
)
THREE = boxes.Priors(
  size=16,
  steps=(4, 8, 16),
  least=(4, 8, 12),
  most=(8, 12, 16),
  ratios=((2,), (2, 3), ()),
)


def taps_of(network, **how):
  """The compiled function from variables and images to all taps."""

  @jax.jit
  def taps(variables, images):
    return network.apply(
      variables, images, **how, mutable=['intermediates', 'batch_stats']
    )[1]['intermediates']

  return taps


def test_the_vgg_computes_what_the_original_computes():
  arrays, _ = vectors.load('dense_ssd_net')
  state = {
    name.removeprefix('par_'): value
    for name, value in arrays.items()
    if name.startswith('par_')
  }

  def widths(*names):
    return tuple(len(state[f'{name}.bias']) for name in names)

  network = models.make(
    'ssd300_vgg16',
    arrays['out_logits'].shape[-1] - 1,
    widths=(
      widths('vgg.0', 'vgg.2'),
      widths('vgg.5', 'vgg.7'),
      widths('vgg.10', 'vgg.12', 'vgg.14'),
      widths('vgg.17', 'vgg.19', 'vgg.21'),
      widths('vgg.24', 'vgg.26', 'vgg.28'),
    ),
    hidden=len(state['vgg.31.bias']),
    extras=tuple(
      widths(f'extras.{i}', f'extras.{i + 1}') for i in range(0, 8, 2)
    ),
  )
  variables = convert.convert(network, state)
  assert convert.originals(network) == {n: x.shape for n, x in state.items()}

  taps = taps_of(network, train=False)
  got = taps(variables, vectors.nhwc(arrays['in_image']))
  want = vectors.nhwc(arrays['out_conv4_3_pre'])
  # float32 through 20 layers.
  vectors.assert_near(got['stage3_pre'], want, rtol=1e-4)
  vectors.assert_near(got['offsets'], arrays['out_offsets'], rtol=1e-4)
  vectors.assert_near(got['logits'], arrays['out_logits'], rtol=1e-4)


def test_l2_normalisation_and_its_gradient_are_the_originals():
  arrays, _ = vectors.load('dense_ssd_boxes')
  layer = ssd.L2Norm()

  def normalised(scale, x):
    return layer.apply({'params': {'scale': scale}}, x)

  x, cotangent = (
    vectors.nhwc(arrays[f'in_l2norm{name}']) for name in ('', '_cotangent')
  )
  got, pull = jax.vjp(normalised, arrays['par_l2norm_weight'], x)
  vectors.assert_near(got, vectors.nhwc(arrays['out_l2norm']))
  scale_grad, grad = pull(jnp.asarray(cotangent))
  vectors.assert_near(scale_grad, arrays['grad_l2norm_weight'])
  vectors.assert_near(grad, vectors.nhwc(arrays['grad_l2norm']))


@pytest.mark.parametrize('name', DETECTORS)
def test_every_detector_has_every_tap(name):
  network = models.make(name, 7)
  size = models.image_size(network)
  image = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
  init = functools.partial(network.init, train=False, mutable=True)
  got = jax.eval_shape(init, jax.random.key(0), image)['intermediates']
  sides = network.priors.sides
  names = {f'stage{i}{p}' for i in range(1, 5) for p in ('', '_pre')}
  names |= {f'source{i}' for i in range(1, len(sides) + 1)}
  assert got.keys() - names == {
    'stem', 'pooled', 'offsets', 'logits', 'priors'
  }  # fmt: skip
  count = len(network.priors.boxes)
  assert got['offsets'].shape == got['priors'].shape == (2, count, 4)
  assert got['logits'].shape == (2, count, 8)
  for i, side in enumerate(sides, 1):
    assert got[f'source{i}'].shape[1:3] == (side, side)
  assert all(tap.dtype == jnp.float32 for tap in got.values())
  assert got['pooled'].shape == (2, got['stage4'].shape[-1])


def test_the_vgg_has_as_many_parameters_as_the_original():
  network = models.make('ssd300_vgg16', 20)
  assert models.describe(network, 300).params == 26_285_486


def narrow(**kwargs):
  fields = {'stage_sizes': (1,) * 3, 'widths': (4, 4, 8, 8), 'priors': TWO}
  return models.make('ssd48_resnet10', 3, **{**fields, **kwargs})


def test_heads_are_laid_out_as_the_priors():
  network = narrow()
  shapes = convert.shapes(network)
  variables = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
  for i, anchors in enumerate(TWO.anchors, 1):
    for name in ('offsets', 'logits'):
      bias = 100 * i + np.arange(anchors * 4, dtype=np.float32)
      variables['params'][f'{name}{i}']['bias'] = bias
  images = np.zeros((1, 16, 16, 3), np.float32)
  got = taps_of(network, train=False)(variables, images)
  for name in ('offsets', 'logits'):
    values, start = np.asarray(got[name][0]), 0
    maps = zip(TWO.sides, TWO.anchors, strict=True)
    for i, (side, anchors) in enumerate(maps, 1):
      part = values[start : start + side * side * anchors]
      want = 100 * i + np.arange(anchors * 4).reshape(anchors, 4)
      np.testing.assert_array_equal(part, np.tile(want, (side * side, 1)))
      start += len(part)
    assert start == len(values)
  np.testing.assert_array_equal(got['priors'][0], TWO.boxes)


def test_the_tasks_loss_has_gradients_in_every_layer():
  network = narrow(extras=((4, 8),), priors=THREE)
  rng = np.random.default_rng(0)
  images = rng.normal(size=(2, 16, 16, 3)).astype(np.float32)
  params = jax.tree.map(
    lambda x: 0.3 * rng.normal(size=x.shape).astype(np.float32),
    convert.shapes(network)['params'],
  )

  shapes = convert.shapes(network)['batch_stats']
  stats = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), shapes)

  # An object for the priors of each source.
  batch = {
    'boxes': np.float32([[[0, 0, 4, 4], [8, 8, 16, 16]], [[1, 1, 15, 15]] * 2])
    / 16,
    'label': np.int32([[0, 2], [1, -1]]),
    'difficult': np.zeros((2, 2), bool),
  }

  @jax.jit
  def grads(params):
    def total(params):
      _, changed = network.apply(
        {'params': params, 'batch_stats': stats},
        images,
        train=True,
        mutable=['intermediates', 'batch_stats'],
      )
      return tasks.find('detection').supervised(changed['intermediates'], batch)

    return jax.grad(total)(params)

  for path, leaf in jax.tree_util.tree_leaves_with_path(grads(params)):
    assert np.isfinite(leaf).all(), path
    assert np.any(leaf), path


def traced(network, size):
  image = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
  init = functools.partial(network.init, train=False)
  return jax.eval_shape(init, jax.random.key(0), image)


def test_images_of_another_size_are_refused():
  network = narrow()
  with pytest.raises(errors.UsageError, match='give images of 16 pixels'):
    traced(network, (24, 24))


def test_priors_of_other_maps_are_refused():
  network = narrow(priors=THREE)
  with pytest.raises(errors.UsageError, match='or other priors'):
    traced(network, (16, 16))


@pytest.mark.parametrize(
  ('name', 'args', 'message'),
  [
    ('ssd300_vgg16', {'widths': ((4,),)}, 'stem and of 4 stages'),
    ('ssd300_resnet18', {'widths': (4, 4)}, "needs 5, the stem's first"),
    ('ssd300_resnet18', {'stem': 'cifr'}, 'stem'),
    ('ssd300_resnet18', {'extras': ((0, 4),)}, 'extras'),
  ],
)
def test_fields_that_do_not_fit_are_refused(name, args, message):
  with pytest.raises(errors.UsageError, match=message):
    models.make(name, 10, **args)
