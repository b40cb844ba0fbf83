"""DeepLabV3+: parameters, taps, dropout, and what is refused.

What the original computes is in tests/models/deeplab_vectors_test.py.
"""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import errors, models
from kd_jax.models import layers, registry

NAMES = sorted(
  name
  for name in models.NETWORKS
  if models.task(models.make(name, 2)) == 'segmentation'
)
# The smallest network of the class, with all kinds of layers.
TINY = {
  'stage_sizes': (1, 1, 1, 1),
  'widths': (4,) * 5,
  'aspp_width': 4,
  'low_width': 2,
  'decoder_width': 4,
}
IMAGES = np.random.default_rng(0).normal(size=(4, 24, 17, 3))
IMAGES = IMAGES.astype(np.float32)


def tiny(**fields):
  return models.make('deeplab_resnet10_small', 5, **{**TINY, **fields})


@functools.cache
def variables():
  init = jax.jit(tiny().init, static_argnames='train')
  return init(jax.random.key(0), IMAGES, train=False)


@functools.partial(jax.jit, static_argnames=('network', 'train'))
def _applied(network, variables, images, key, *, train):
  return network.apply(
    variables,
    images,
    train=train,
    rngs=None if key is None else {'dropout': key},
    mutable=['intermediates', 'batch_stats'],
  )[1]['intermediates']


def apply(network, images=IMAGES, *, train=False, key=None):
  """The taps of a tiny network."""
  return _applied(network, variables(), images, key, train=train)


# Those of the original, counted there; the small ones' by hand.
@pytest.mark.parametrize(
  ('name', 'classes', 'count'),
  [
    ('deeplab_resnet101', 21, 59_344_309),
    ('deeplab_resnet18', 21, 16_608_181),
    ('deeplab_resnet10_small', 11, 184_339),
    ('deeplab_resnet18_small', 11, 666_299),
  ],
)
def test_parameters_are_as_many_as_the_originals(name, classes, count):
  network = models.make(name, classes)
  image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
  init = functools.partial(network.init, train=False)
  shapes = jax.eval_shape(init, jax.random.key(0), image)['params']
  assert sum(math.prod(x.shape) for x in jax.tree.leaves(shapes)) == count


@pytest.mark.parametrize('name', NAMES)
def test_every_deeplab_has_every_tap_and_its_groups_of_parameters(name):
  network = models.make(name, 7)
  image = jax.ShapeDtypeStruct((2, 65, 49, 3), jnp.float32)
  init = functools.partial(network.init, train=False, mutable=True)
  found = jax.eval_shape(init, jax.random.key(0), image)
  taps = found['intermediates']
  stages = {f'stage{i}{p}' for i in range(1, 5) for p in ('', '_pre')}
  heads = {'aspp', 'aspp_pre', 'decoder', 'decoder_pre', 'scores'}
  assert set(taps) == {'stem', 'pooled', 'logits', *stages, *heads}
  assert {*found['params']} == {'backbone', 'aspp', 'decoder'}
  assert taps['logits'].shape == (2, 65, 49, 7)
  assert taps['scores'].shape == (*taps['stage1'].shape[:3], 7)
  assert taps['pooled'].shape == (2, taps['stage4'].shape[-1])
  assert all(tap.dtype == jnp.float32 for tap in taps.values())


def test_a_network_says_its_task_and_a_module_of_ones_own_is_a_classifier():
  assert models.task(tiny()) == 'segmentation'
  assert models.task(models.make('resnet8', 5)) == 'classification'
  assert models.task(registry.Function(5, np.sin)) == 'classification'


def test_logits_are_the_scores_resized_to_the_images():
  taps = apply(tiny())
  want = layers.resize(jnp.asarray(taps['scores']), *IMAGES.shape[1:3])
  np.testing.assert_allclose(taps['logits'], want, rtol=1e-5, atol=1e-5)
  for name in ('aspp', 'decoder'):
    assert (taps[f'{name}_pre'] < 0).any()
    np.testing.assert_array_equal(
      taps[name], np.maximum(taps[f'{name}_pre'], 0)
    )


@pytest.mark.parametrize(
  ('dropout', 'noisy'),
  [
    ('all', {'decoder_pre', 'decoder', 'scores', 'logits'}),
    ('decoder', {'decoder_pre', 'decoder', 'scores', 'logits'}),
    ('none', set()),
  ],
)
def test_dropout_changes_what_follows_it_in_training_alone(dropout, noisy):
  network = tiny(dropout=dropout)
  first, second = (
    apply(network, train=True, key=jax.random.key(seed)) for seed in (1, 2)
  )
  assert {n for n in first if (first[n] != second[n]).any()} == noisy
  with_keys, without = (
    apply(network, key=key) for key in (jax.random.key(1), None)
  )
  jax.tree.map(np.testing.assert_array_equal, with_keys, without)


@pytest.mark.parametrize(
  ('dropout', 'count'), [('all', 3), ('decoder', 2), ('none', 0)]
)
def test_the_decoders_dropout_alone_leaves_aspps_result_whole(dropout, count):
  network = tiny(dropout=dropout)

  def train(variables):
    rngs = {'dropout': jax.random.key(0)}
    mutable = ['batch_stats']
    return network.apply(
      variables, IMAGES, train=True, rngs=rngs, mutable=mutable
    )

  graph = str(jax.make_jaxpr(train)(variables()))
  assert len(re.findall(r'name=_bernoulli\b', graph)) == count


def test_a_batch_of_one_is_refused_in_training_alone():
  one = IMAGES[:1]
  assert np.isfinite(apply(tiny(), one)['logits']).all()
  with pytest.raises(errors.UsageError, match='a batch of 1 with bn_group'):
    apply(tiny(), one, train=True)
  with pytest.raises(errors.UsageError, match='with bn_group_size=1: a Deep'):
    apply(tiny(bn_group_size=1), train=True)
  running = apply(tiny(batch_norm='running'), one, train=True)
  assert np.isfinite(running['logits']).all()


def test_bfloat16_computes_near_float32_and_keeps_taps_in_float32():
  full, half = (apply(tiny(dtype=d)) for d in (jnp.float32, jnp.bfloat16))
  assert half['logits'].dtype == jnp.float32
  scale = np.abs(full['scores']).max()
  # bfloat16 keeps 8 bits of mantissa.
  np.testing.assert_allclose(half['scores'], full['scores'], atol=0.05 * scale)
  assert (half['scores'] != full['scores']).any()


def test_what_is_folded_gives_the_same_logits():
  network = tiny()
  mutable = ['intermediates', layers.FOLDED]
  run = functools.partial(network.apply, images=IMAGES, train=False)
  _, made = run(variables(), mutable=mutable)
  folded = run({**variables(), layers.FOLDED: made[layers.FOLDED]})
  np.testing.assert_allclose(
    folded, run(variables()), rtol=1e-4, atol=1e-5
  )  # float32


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'dropout': 'al'}, "did you mean 'all'"),
    ({'output_stride': 1}, "'strided' has the stride 2; give one of 2, 4"),
    ({'grid': (1, 2)}, r'grid=\(1, 2\): the last stage has 1 blocks'),
    ({'dilations': (0,)}, 'dilations=.* give a whole number, 1 or more each'),
    ({'aspp_width': 0}, 'aspp_width=0: give a whole number, 1 or more'),
    ({'widths': (4, 4)}, 'a ResNet of 4 stages needs 5'),
  ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
  with pytest.raises(errors.UsageError, match=message):
    models.make('deeplab_resnet10_small', 5, **fields)
