"""DeepLabV3+: parameters, taps, dropout, and what is refused.

What the original computes is in tests/methods/segmentation_test.py.
"""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import numpy as safetensors

from kd_jax import errors, models
from kd_jax.models import layers, read_params, registry
from kd_jax.models.pretrained import convert
from tests import graphs

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
TINY_MOBILE = {
  'stem_width': 4,
  'stages': (
    ((1, 4, 1, 1), (2, 4, 1, 2)),
    ((2, 6, 1, 2),),
    ((2, 8, 1, 2),),
    ((2, 10, 1, 2), (2, 12, 1, 1)),
  ),
  'aspp_width': 4,
  'low_width': 2,
  'decoder_width': 4,
  'dropout': 'none',
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


# The classes, and the parameters of the original; of the small ones by hand.
PARAMETERS = {
  'deeplab_mobilenetv2': (21, 5_816_053),
  'deeplab_resnet10_small': (11, 184_339),
  'deeplab_resnet101': (21, 59_344_309),
  'deeplab_resnet18': (21, 16_608_181),
  'deeplab_resnet18_small': (11, 666_299),
}


@functools.cache
def shapes(name):
  """The shapes of a network's variables and taps."""
  network = models.make(name, PARAMETERS[name][0])
  image = jax.ShapeDtypeStruct((2, 65, 49, 3), jnp.float32)
  init = functools.partial(network.init, train=False, mutable=True)
  return jax.eval_shape(init, jax.random.key(0), image)


@pytest.mark.parametrize('name', NAMES)
def test_parameters_are_as_many_as_the_originals(name):
  leaves = jax.tree.leaves(shapes(name)['params'])
  assert sum(math.prod(x.shape) for x in leaves) == PARAMETERS[name][1]


@pytest.mark.parametrize('name', NAMES)
def test_every_deeplab_has_every_tap_and_its_groups_of_parameters(name):
  taps = shapes(name)['intermediates']
  stages = {f'stage{i}{p}' for i in range(1, 5) for p in ('', '_pre')}
  heads = {'aspp', 'aspp_pre', 'decoder', 'decoder_pre', 'scores'}
  assert set(taps) == {'stem', 'pooled', 'logits', *stages, *heads}
  assert {*shapes(name)['params']} == {'backbone', 'aspp', 'decoder'}
  classes, _ = PARAMETERS[name]
  assert taps['logits'].shape == (2, 65, 49, classes)
  assert taps['scores'].shape == (*taps['stage1'].shape[:3], classes)
  assert taps['pooled'].shape == (2, taps['stage4'].shape[-1])
  assert all(tap.dtype == jnp.float32 for tap in taps.values())


def test_a_network_says_its_task_and_a_module_of_ones_own_is_a_classifier():
  assert models.task(tiny()) == 'segmentation'
  assert models.task(models.make('resnet8', 5)) == 'classification'
  assert models.task(registry.Function(5, np.sin)) == 'classification'


@pytest.mark.parametrize('name', NAMES)
def test_the_size_of_a_networks_images_is_the_papers_or_the_small_ones(name):
  want = 48 if name.endswith('small') else 513
  assert models.image_size(models.make(name, 2)) == want


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


def mobile(**fields):
  return models.make('deeplab_mobilenetv2', 5, **{**TINY_MOBILE, **fields})


@functools.cache
def mobile_initial():
  init = jax.jit(mobile().init, static_argnames='train')
  return jax.device_get(init(jax.random.key(0), IMAGES, train=False))


@functools.cache
def mobile_variables():
  """Variables that are far from their first, of which many are 0 and 1."""
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda x: (x + rng.uniform(0, 0.5, x.shape)).astype(np.float32),
    mobile_initial(),
  )


def test_layers_start_as_the_originals():
  params = mobile_initial()['params']
  kernels = [x for x in jax.tree.leaves(params) if x.ndim == 4]
  scaled = [x.ravel() / (2 / x[..., 0].size) ** 0.5 for x in kernels]
  together = np.concatenate(scaled)
  assert np.std(together) == pytest.approx(1, rel=0.06)
  assert np.abs(together).max() > 3  # normal
  bias = params['decoder']['scores']['bias']
  assert bias.any()
  assert np.abs(bias).max() <= TINY_MOBILE['decoder_width'] ** -0.5


@functools.cache
def moved(padding):
  """The taps and the running statistics of a step in training."""
  network = mobile(padding=padding)
  mutable = ['intermediates', 'batch_stats']
  _, found = jax.jit(
    lambda variables: network.apply(
      variables, IMAGES, train=True, mutable=mutable
    )
  )(mobile_variables())
  return jax.device_get(found)


def expanded(taps, stage):
  """What the next stage's first block makes of a stage, in float64."""
  params = mobile_variables()['params']['backbone'][f'stage{stage + 1}_block1']
  kernel = params['conv1']['kernel'][0, 0].astype(np.float64)
  y = np.einsum('nhwi,io->nhwo', taps[f'stage{stage}'], kernel)
  return y, params['bn1']


@pytest.mark.parametrize('padding', ['block', 'depthwise'])
@pytest.mark.parametrize('stage', [1, 2, 3])
def test_a_pre_tap_of_a_mobilenet_is_the_expansion_without_padding(
  padding, stage
):
  taps = moved(padding)['intermediates']
  y, norm = expanded(taps, stage)
  mean, var = y.mean((0, 1, 2)), y.var((0, 1, 2))
  want = (y - mean) / np.sqrt(var + 1e-5) * norm['scale'] + norm['bias']
  found = taps[f'stage{stage}_pre']
  # float32 through batch norm.
  np.testing.assert_allclose(found, want, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize('stage', [1, 2, 3])
def test_a_padded_blocks_statistics_move_once_and_see_the_border(stage):
  name, means = f'stage{stage + 1}_block1', {}
  before = mobile_variables()['batch_stats']['backbone'][name]['bn1']['mean']
  for padding in ('block', 'depthwise'):
    found = moved(padding)
    y, _ = expanded(found['intermediates'], stage)
    if padding == 'block':  # by the dilation, 1 in these blocks
      y = np.pad(y, ((0, 0), (1, 1), (1, 1), (0, 0)))
    want = 0.9 * before + 0.1 * y.mean((0, 1, 2))
    means[padding] = found['batch_stats']['backbone'][name]['bn1']['mean']
    np.testing.assert_allclose(means[padding], want, rtol=1e-4, atol=1e-5)
  assert np.any(means['block'] != means['depthwise'])


def test_the_last_pre_tap_of_a_mobilenet_is_its_linear_stage():
  taps = moved('block')['intermediates']
  np.testing.assert_array_equal(taps['stage4_pre'], taps['stage4'])
  assert (taps['stage4'] < 0).any()


@pytest.mark.parametrize(
  ('output_stride', 'side', 'want'),
  [(32, 3, [1] * 6), (16, 5, [1] * 5 + [2]), (8, 9, [1] * 4 + [2, 4])],
)
def test_rows_of_a_mobilenet_beyond_the_output_stride_are_dilated(
  output_stride, side, want
):
  network = mobile(output_stride=output_stride)

  def last(image):
    found = network.init(jax.random.key(0), image, train=False, mutable=True)
    return found['intermediates']['stage4']

  graph = jax.make_jaxpr(last)(jnp.zeros((1, 65, 65, 3)))
  dilations = [
    equation.params['rhs_dilation'][0]
    for equation in graphs.convolutions(graph.jaxpr)
    if equation.params['feature_group_count'] > 1
  ]
  assert graph.jaxpr.outvars[0].aval.shape[1] == side
  assert dilations == want


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'padding': 'blok'}, "did you mean 'block'"),
    ({'output_stride': 4}, 'output_stride=4: give 8, 16 or 32'),
    (
      {'stages': (((2, 4, 1, 1),), ((1, 4, 1, 2),))},
      'stages=.* needs an expansion above 1',
    ),
  ],
)
def test_fields_of_a_mobilenet_that_do_not_fit_are_refused(fields, message):
  with pytest.raises(errors.UsageError, match=message):
    mobile(**fields)


@pytest.mark.parametrize('name', NAMES)
def test_the_margins_batch_norm_has_the_channels_of_its_tap(name):
  for stage in (1, 2, 3, 4, 'aspp', 'decoder'):
    scale, bias = read_params.last_bn(shapes(name)['params'], stage)
    tap = f'stage{stage}_pre' if isinstance(stage, int) else f'{stage}_pre'
    width = shapes(name)['intermediates'][tap].shape[-1:]
    assert scale.shape == bias.shape == width


@pytest.mark.parametrize('stage', [1, 2, 3, 4, 'aspp', 'decoder'])
@pytest.mark.parametrize('kind', ['resnet', 'mobilenet'])
def test_the_margins_batch_norm_is_the_one_behind_the_pre_tap(kind, stage):
  # Where its scale and bias are 0, so is its tap, but for a shortcut's part.
  network = mobile() if kind == 'mobilenet' else tiny()
  made = mobile_variables() if kind == 'mobilenet' else variables()
  made = jax.device_get(made)
  norm = read_params.last_bn(made['params'], stage)
  changed = jax.tree.map(
    lambda x: x * 0 + 7 if any(x is y for y in norm) else x, made
  )
  before, after = (
    _applied(network, given, IMAGES, None, train=False)
    for given in (made, changed)
  )
  tap = f'stage{stage}_pre' if isinstance(stage, int) else f'{stage}_pre'
  assert (before[tap] != after[tap]).any()
  names = [f'stage{i}_pre' for i in range(1, 5)] + ['aspp_pre', 'decoder_pre']
  for earlier in names[: names.index(tap)]:
    np.testing.assert_array_equal(before[earlier], after[earlier])


@pytest.mark.parametrize('name', NAMES)
def test_layers_have_different_names_in_the_original(name, monkeypatch):
  monkeypatch.setattr(
    convert,
    'shapes',
    lambda _: {key: shapes(name)[key] for key in ('params', 'batch_stats')},
  )
  (plan,) = convert.plans(models.make(name, 2)).values()
  assert len(set(plan.values())) == len(plan)


def test_weights_that_a_mobilenets_state_dict_lists_twice_are_taken_once(
  tmp_path,
):
  network, rng = mobile(), np.random.default_rng(0)
  state = {
    name: rng.normal(size=shape).astype(np.float32)
    for name, shape in convert.originals(network).items()
  }
  copies = {
    f'backbone.{part}_level_features.0.0.weight': np.zeros((1, 1), np.float32)
    for part in ('low', 'high')
  }
  want = convert.convert(network, state)
  path = tmp_path / 'a.safetensors'
  file = {f'state_dict.{k}': v for k, v in {**copies, **state}.items()}
  safetensors.save_file(file, path)
  said = []
  found = convert.load(network, path, say=said.append)
  jax.tree.map(np.testing.assert_array_equal, found, want)
  assert any(
    '2 weights that are listed twice were taken once' in x for x in said
  )
  with pytest.raises(errors.UsageError, match='1 unexpected: backbone'):
    convert.convert(network, {**state, 'backbone.extra': np.zeros(1)})
