"""What every network keeps, whatever it is made of."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import errors, models
from kd_jax.cli import networks as command
from kd_jax.models import layers
from kd_jax.runtime import sharding
from tests import graphs, tiny

# The arguments that make one network of each class small.
NARROW = {
  'resnet8': {'widths': (4, 4, 8, 16)},
  'wrn_16_1': {'depth': 10},
  'wrn_16_2_ffsd': {'depth': 10, 'widen': 1},
  'vgg8': {'widths': ((4,), (4, 4), (8,), (8,), (16,))},
  'vgg11_imagenet': {
    'widths': ((4,), (4,), (8,), (8,), (16,)),
    'hidden': 16,
  },
  'mobilenetv1': {'stages': (((4, 1), (8, 2)), ((16, 2),), ((24, 2),))},
  'mobilenetv2': {'stages': (((1, 16, 1, 1), (2, 24, 2, 2)), ((2, 32, 1, 2),))},
  'mobilenetv2_imagenet': {
    'stages': (((1, 16, 1, 1), (2, 16, 2, 2)), ((2, 24, 1, 2),)),
    'width': 0.5,
  },
  'shufflenetv1': {'stage_sizes': (2, 2), 'widths': (48, 60)},
  'shufflenetv2': {'stage_sizes': (2, 2), 'widths': (8, 16, 24)},
  'pyramidnet110': {'depth': 8, 'alpha': 9},
  'pyramidnet200': {'depth': 11, 'alpha': 9},
  'densenet40_12': {'depth': 7, 'growth': 3},
  'googlenet': {
    'width': 8,
    'stages': (((4, 4, 8, 2, 4, 4),), ((8, 4, 8, 2, 4, 4),)),
  },
}
CLASSIFIERS = sorted(
  name
  for name in models.NETWORKS
  if models.task(models.make(name, 2)) == 'classification'
)
# What the names of networks after 2019 begin with; see recent_test.py.
RECENT = (
  *('convnext', 'deit', 'efficientnet', 'mobilenetv3', 'regnet', 'swin', 'vit'),
  *('resnet18d', 'resnet34d', 'resnet50d'),
)
OLDER = [name for name in CLASSIFIERS if not name.startswith(RECENT)]
STAGES = {'MobileNetV1': 4, 'MobileNetV2': 4, 'VGG': 4}
IMAGES = np.random.default_rng(0).normal(size=(8, 32, 32, 3))
IMAGES = IMAGES.astype(np.float32)


def narrow(name, **kwargs):
  return models.make(name, tiny.CLASSES, **NARROW[name], **kwargs)


@functools.cache
def variables(name):
  """Initial parameters beside running statistics that are not 0 and 1."""
  rng = np.random.default_rng(0)
  key = jax.random.key(0)
  made = jax.device_get(
    jax.jit(narrow(name).init, static_argnames='train')(
      key, IMAGES, train=False
    )
  )
  made['batch_stats'] = jax.tree.map(
    lambda x: (x + rng.uniform(-0.5, 0.5, x.shape)).astype(np.float32),
    made['batch_stats'],
  )
  return made


@functools.cache
def forward(name):
  """The compiled function from variables to all taps in evaluation."""

  def taps(variables):
    _, changed = narrow(name).apply(
      variables, IMAGES, train=False, mutable=['intermediates']
    )
    return changed['intermediates']

  return jax.jit(taps)


@functools.cache
def taps(name):
  return jax.device_get(forward(name)(variables(name)))


def graph(name, *, train=False, **kwargs):
  """What a narrow network computes its logits with, as a jaxpr."""
  network = narrow(name, **kwargs)

  def logits(variables):
    mutable = ['batch_stats']
    return network.apply(variables, IMAGES, train=train, mutable=mutable)[0]

  return jax.make_jaxpr(logits)(variables(name)).jaxpr


def test_every_class_of_classifiers_is_tested_on_a_narrow_one():
  classes = {type(models.make(name, 2)) for name in OLDER}
  assert {type(narrow(name)) for name in NARROW} == classes


@pytest.mark.parametrize('name', OLDER)
def test_every_classifier_has_every_tap(name):
  network = models.make(name, 7)
  image = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
  init = functools.partial(network.init, train=False, mutable=True)
  found = jax.eval_shape(init, jax.random.key(0), image)['intermediates']
  default = len(getattr(network, 'stage_sizes', (0,) * 3))
  last = STAGES.get(type(network).__name__, default)
  names = {f'stage{i}{p}' for i in range(1, last + 1) for p in ('', '_pre')}
  optional = {f'stage{last}_post'}
  assert set(found) - optional == {'stem', 'pooled', 'logits', *names}
  assert found['logits'].shape == (2, 7)
  assert all(tap.dtype == jnp.float32 for tap in found.values())
  pooled = found.get(f'stage{last}_post', found[f'stage{last}'])
  if not re.fullmatch(r'vgg\d+_imagenet', name):  # it has hidden layers
    assert found['pooled'].shape == (2, pooled.shape[-1])


@pytest.mark.parametrize('name', sorted(set(NARROW) - {'vgg11_imagenet'}))
def test_what_is_pooled_is_the_last_map(name):
  found = taps(name)
  last = max(tap for tap in found if re.fullmatch(r'stage\d', tap))
  pooled = found.get(f'{last}_post', found[last]).mean(axis=(1, 2))
  np.testing.assert_allclose(found['pooled'], pooled, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('name', NARROW)
def test_training_on_four_devices_equals_training_on_one(name):
  def train(variables, images):
    return narrow(name).apply(
      variables, images, train=True, mutable=['batch_stats']
    )

  results = []
  for devices in (1, 4):
    mesh = sharding.make_mesh(devices)
    whole, split = sharding.replicated(mesh), sharding.batched(mesh)
    compiled = jax.jit(train, in_shardings=(whole, split), out_shardings=whole)
    with layers.traced_for(devices):
      results.append(jax.device_get(compiled(variables(name), IMAGES)))
  # Sums over the batch differ in order: float32 through batch norm.
  near = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
  jax.tree.map(near, *results)


@pytest.mark.parametrize('name', NARROW)
def test_bfloat16_is_what_all_convolutions_compute_in(name):
  convolutions = [
    equation.outvars[0].aval.dtype
    for equation in graphs.convolutions(graph(name, dtype=jnp.bfloat16))
  ]
  assert len(convolutions) > 3
  assert set(convolutions) == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize('name', NARROW)
def test_batch_norm_modes_reach_every_layer(name):
  batch, running = (str(graph(name, train=train)) for train in (True, False))
  assert batch != running
  for train in (True, False):
    assert str(graph(name, train=train, batch_norm='batch')) == batch
    assert str(graph(name, train=train, batch_norm='running')) == running


def test_ffsds_last_batch_norm_keeps_a_tenth_and_others_nine():
  for name, keep in (('wrn_16_2_ffsd', 0.1), ('wrn_16_1', 0.9)):
    made = variables(name)
    network = narrow(name)
    before = made['batch_stats']['bn_last']['mean']
    _, changed = jax.jit(
      lambda v, network=network: network.apply(
        v, IMAGES, train=True, mutable=['batch_stats', 'intermediates']
      )
    )(made)
    batch = changed['intermediates']['stage3'].mean(axis=(0, 1, 2))
    want = keep * before + (1 - keep) * batch
    after = changed['batch_stats']['bn_last']['mean']
    np.testing.assert_allclose(after, want, rtol=1e-4, atol=1e-5)


# Where the originals set nothing, torch's defaults: U(-1, 1)/sqrt(fan_in).
TORCH_CONV = ('mobilenetv1', 'shufflenetv1', 'shufflenetv2')
SMALL_FC = ('vgg8', 'vgg11_imagenet', 'mobilenetv2', 'mobilenetv2_imagenet')
ZERO_BIAS = (*SMALL_FC, 'wrn_16_1')


@pytest.mark.parametrize('name', NARROW)
def test_layers_start_as_the_originals(name):
  params = variables(name)['params']
  scaled = []
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    if leaf.ndim == 4:
      h, w, features_in, features_out = leaf.shape
      variance = (
        1 / (3 * h * w * features_in)
        if name in TORCH_CONV
        else 2 / (h * w * features_out)
      )
      scaled.append(leaf.ravel() / variance**0.5)
    elif 'conv' in str(path[-2]) and path[-1].key == 'bias':
      assert leaf.any() == name.endswith(('ffsd', 'googlenet'))
  together = np.concatenate(scaled)
  assert np.std(together) == pytest.approx(1, rel=0.06)
  # A uniform distribution ends at sqrt(3) standard deviations.
  assert (np.abs(together).max() <= 3**0.5 + 1e-5) == (name in TORCH_CONV)
  kernel, bias = params['fc']['kernel'], params['fc']['bias']
  std = 0.01 if name in SMALL_FC else (3 * kernel.shape[0]) ** -0.5
  assert np.std(kernel) == pytest.approx(std, rel=0.2)
  assert bias.any() != (name in ZERO_BIAS)


def test_depthwise_convolutions_count_all_their_channels_as_fan_out():
  kernel = layers.conv_init(jax.random.key(0), (3, 3, 1, 4096))
  assert np.std(kernel) == pytest.approx((2 / (9 * 4096)) ** 0.5, rel=0.02)


@pytest.mark.parametrize(
  ('name', 'args', 'message'),
  [
    ('wrn_16_2', {'depth': 17}, r'depth=17.*6n\+4'),
    ('wrn_16_2', {'variant': 'ffds'}, "did you mean 'ffsd'"),
    ('pyramidnet200', {'depth': 111}, r'9n\+2 with bottlenecks'),
    ('densenet40_12', {'depth': 41}, r'depth=41.*3n\+4'),
    ('vgg8', {'widths': ((4,),)}, 'stem and of 4 stages'),
    ('mobilenetv1', {'stem': 'cifr'}, "did you mean 'cifar'"),
    ('shufflenetv2', {'stage_sizes': (4, 8)}, 'as many stages as widths'),
    ('shufflenetv1', {'batch_norm': 'runing'}, "did you mean 'running'"),
  ],
)
def test_fields_that_do_not_fit_are_refused(name, args, message):
  with pytest.raises(errors.UsageError, match=message):
    models.make(name, 10, **args)


def test_the_table_of_networks_has_counts_and_taps(capsys):
  assert command.main(['resnet8', 'mobilenetv1', '--image_size', '32']) == 0
  rows = capsys.readouterr().out
  assert re.search(r'resnet8 +83,892 parameters .* 32x32, 100 classes', rows)
  assert re.search(r'mobilenetv1 .* 32x32, 1000 classes', rows)
  assert 'stage3_pre 8x8x64, stage3 8x8x64, pooled 64, logits 100' in rows


def test_the_table_of_networks_says_what_a_network_is_for(capsys):
  assert command.main(['resnet8', 'deeplab_resnet10_small']) == 0
  rows = capsys.readouterr().out
  assert 'at 32x32, 100 classes, classification\n' in rows
  assert re.search(r'184,339 parameters .* 11 classes, segmentation\n', rows)


def test_the_table_of_networks_refuses_a_name_with_the_nearest():
  with pytest.raises(errors.UsageError, match="did you mean 'wrn_16_2'"):
    command.main(['wrn_162'])


def test_an_unknown_network_names_the_nearest():
  with pytest.raises(errors.UsageError, match="did you mean 'resnet32x4'"):
    models.make('resnet32x', 10)


def test_an_unknown_argument_names_the_nearest():
  with pytest.raises(errors.UsageError, match="did you mean 'widths'"):
    models.make('resnet8', 10, width=(1, 2, 3, 4))


def test_a_network_of_ones_own_is_found_by_its_import_path():
  network = models.make(
    'kd_jax.models.resnet:ResNet', 3, **{'stage_sizes': (1,), 'widths': (4, 4)}
  )
  assert network.num_classes == 3
