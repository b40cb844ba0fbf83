"""Networks after 2019: full sizes without weights, the rest on small ones.

The counts of parameters are those that torchvision 0.28 and timm 1.0.31 give
for 1000 classes. What the networks compute is held against stored outputs of
both in weights_test.py.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors import numpy as safetensors

from kd_jax import errors, models
from kd_jax.distill import inspect
from kd_jax.models import swin
from kd_jax.models.pretrained import convert
from tests import tiny
from tests.models import networks_test

# By name: the parameters, and the pixels of an image.
FULL = {
  'vit_tiny': (5_717_416, 224),
  'vit_small': (22_050_664, 224),
  'vit_base': (86_567_656, 224),
  'deit_tiny': (5_910_800, 224),
  'deit_small': (22_436_432, 224),
  'deit_base': (87_338_192, 224),
  'convnext_atto': (3_695_520, 224),
  'convnext_femto': (5_217_784, 224),
  'convnext_pico': (9_045_672, 224),
  'convnext_nano': (15_593_560, 224),
  'convnext_tiny': (28_589_128, 224),
  'swin_tiny': (28_288_354, 224),
  'mobilenetv3_small': (2_542_856, 224),
  'mobilenetv3_large': (5_483_032, 224),
  'efficientnet_b0': (5_288_548, 224),
  'efficientnet_b1': (7_794_184, 240),
  'regnety_400mf': (4_344_144, 224),
  'regnety_1_6gf': (11_202_430, 224),
  'regnety_16gf': (83_590_140, 224),
  'resnet18d': (11_708_744, 224),
  'resnet34d': (21_816_904, 224),
  'resnet50d': (25_576_264, 224),
}
SMALLEST = (
  'vit_tiny', 'deit_tiny', 'convnext_atto', 'swin_tiny', 'mobilenetv3_small',
  'efficientnet_b0', 'regnety_400mf', 'resnet18d',
)  # fmt: skip
# The arguments that make one network of each class small.
SMALL = {
  'deit_tiny': {
    'embedding': 16, 'heads': 2, 'depth': 1, 'stages': 1, 'image_size': 8,
    'patch': 4,
  },
  'convnext_atto': {'stage_sizes': (1, 1), 'widths': (8, 16), 'patch': 2},
  'swin_tiny': {
    'stage_sizes': (1, 2), 'heads': (1, 2), 'embedding': 8, 'window': 2,
  },
  'mobilenetv3_small': {
    'blocks': (((3, 24, 16, 1, 'hardswish', 2),), ((5, 32, 24, 0, 'relu', 1),)),
    'last_width': 32,
    'hidden': 16,
  },
  'efficientnet_b0': {
    'stages': (((1, 32, 1, 1, 3),), ((4, 24, 1, 2, 5),)),
    'stem_width': 16,
    'last_width': 32,
  },
  'regnety_400mf': {
    'stage_sizes': (1, 1), 'widths': (16, 24), 'group_width': 8,
  },
  'resnet18d': {'stage_sizes': (1, 1), 'widths': (8, 8, 16)},
}  # fmt: skip


def small(name, **kwargs):
  return models.make(name, 10, **SMALL[name], **kwargs)


def initial(network, size, **kwargs):
  """The variables of a network and its taps, shapes or arrays."""
  image = jnp.zeros((2, size, size, 3))
  return network.init(jax.random.key(0), image, train=True, mutable=True)


def test_every_recent_network_is_listed_and_every_class_has_a_small_one():
  recent = {
    name
    for name in networks_test.CLASSIFIERS
    if name.startswith(networks_test.RECENT)
  }
  assert set(FULL) == recent
  classes = {type(models.make(name, 2)) for name in recent}
  assert {type(small(name)) for name in SMALL} == classes


@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=[] if name in SMALLEST else pytest.mark.drill)
    for name in FULL
  ],
)
def test_a_network_has_the_originals_parameters_and_every_tap(name):
  params, size = FULL[name]
  network = models.make(name, 1000)
  assert models.image_size(network) == size
  shapes = jax.eval_shape(lambda: initial(network, size))
  taps = shapes['intermediates']
  count = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes['params']))
  assert count == params
  stages = {f'stage{i}{p}' for i in range(1, 5) for p in ('', '_pre')}
  assert {'stem', 'pooled', 'logits', *stages} <= set(taps)
  more = set(taps) - {'stem', 'pooled', 'logits', *stages}
  assert more <= {'stage4_post', 'class_logits', 'distilled_logits'}
  assert taps['logits'].shape == (2, 1000)
  for stage in stages:
    assert taps[stage].ndim == 4, stage


@pytest.mark.parametrize('name', SMALL)
def test_layers_have_different_names_in_every_layout(name):
  for plan in convert.plans(small(name)).values():
    assert len(set(plan.values())) == len(plan)


@pytest.mark.parametrize('name', SMALL)
def test_bfloat16_is_what_matrices_and_convolutions_compute_in(name):
  network = small(name, dtype=jnp.bfloat16)
  size = getattr(network, 'image_size', 32)
  variables = jax.eval_shape(lambda: initial(network, size))
  variables.pop('intermediates')

  def logits(variables):
    image = jnp.zeros((2, size, size, 3))
    return network.apply(variables, image, train=False)

  text = str(jax.make_jaxpr(logits)(variables))
  inputs = re.findall(
    r':(\w+)\[[\d,]*\] = (?:dot_general|conv_general_dilated)', text
  )
  # The products of attention are summed in float32.
  assert inputs.count('bf16') > 5
  if not name.startswith(('deit', 'swin')):
    assert set(inputs) == {'bf16'}


def test_a_vits_weights_start_as_deits():
  network = small('deit_tiny')
  params = jax.jit(lambda: initial(network, 8)['params'])()
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    name = jax.tree_util.keystr(path)
    if 'patch' in name:
      assert np.abs(leaf).max() <= 48**-0.5  # torch's default
    elif leaf.ndim > 1:
      assert np.std(leaf) == pytest.approx(0.02, rel=0.5), name
    else:
      assert (leaf == name.endswith("['scale']")).all(), name


@pytest.mark.parametrize(
  ('name', 'args', 'message'),
  [
    ('vit_tiny', {'heads': 5}, 'heads=5: it must divide embedding=192'),
    ('vit_tiny', {'image_size': 30}, 'patch=16: it must divide image_size=30'),
    ('vit_tiny', {'depth': 3}, 'stages=4: there are 3 blocks'),
    ('vit_tiny', {'drop_path': 1.0}, 'drop_path=1.0: give 0 to less than 1'),
    ('vit_tiny', {'distilled': 1}, 'distilled=1: give True or False'),
    ('convnext_tiny', {'widths': (8, 16)}, 'of 4 stages needs 4'),
    ('swin_tiny', {'heads': (3, 6)}, 'of 4 stages needs 4'),
    (
      'swin_tiny',
      {'heads': (3, 6, 5, 24)},
      '5 must divide the 384 channels of stage 3',
    ),
    ('swin_tiny', {'window': 0}, 'window=0: give a whole number, 1 or more'),
    ('regnety_400mf', {'group_width': 7}, 'group_width=7: it must divide all'),
    ('regnety_400mf', {'widths': (8, 16)}, 'of 4 stages needs 4'),
    ('efficientnet_b0', {'stem': 'cifr'}, "did you mean 'cifar'"),
    (
      'mobilenetv3_small',
      {'blocks': (((3, 8, 8, 1, 'gelu', 1),),)},
      'or .silu',
    ),
  ],
)
def test_fields_that_do_not_fit_are_refused(name, args, message):
  with pytest.raises(errors.UsageError, match=message):
    models.make(name, 10, **args)


@pytest.mark.parametrize('method', ['fitnet', 'ofd'])
def test_maps_of_a_convolutional_teacher_meet_those_of_a_vit(method):
  student = models.make(
    'vit_tiny', 10, embedding=8, heads=2, depth=3, stages=3, image_size=8,
    patch=2,
  )  # fmt: skip
  exp = tiny.experiment(
    tiny.method(method), tx=optax.identity(), student=student
  )
  feats = inspect.trace(exp, 8, 8).features
  assert feats['student']['stage3'].shape == (8, 4, 4, 8)
  assert feats['teacher']['stage3'].shape == (8, 2, 2, 16)


@pytest.mark.parametrize('method', ['fitnet', 'ofd'])
def test_a_swins_maps_meet_those_of_a_convolutional_teacher(method):
  student = models.make(
    'swin_tiny', 10, stage_sizes=(1, 1, 1), heads=(1, 1, 1), embedding=8,
    window=2, patch=1,
  )  # fmt: skip
  exp = tiny.experiment(
    tiny.method(method), tx=optax.identity(), student=student
  )
  feats = inspect.trace(exp, 8, 8).features
  assert feats['student']['stage3'].shape == (8, 2, 2, 32)
  assert feats['teacher']['stage3'].shape == (8, 2, 2, 16)


def test_a_swins_classifier_is_reused_and_its_margins_are_refused():
  teacher = small('swin_tiny', patch=1)

  def trace(name, **fields):
    exp = tiny.experiment(
      tiny.method(name, **fields), tx=optax.identity(), teacher=teacher
    )
    return inspect.trace(exp, 8, 8).features

  taps = {'taps': ('stage2',), 'teacher_taps': ('stage2_post',)}
  assert trace('simkd', **taps)['teacher']['stage2_post'].shape == (8, 4, 4, 16)
  taps['teacher_taps'] = ('stage2',)
  with pytest.raises(errors.UsageError, match="name 'stage2_post' in its"):
    trace('simkd', **taps)
  with pytest.raises(errors.UsageError, match='whose BatchNorm gives a margin'):
    trace('ofd', stages=(2,))


def test_a_swin_shifts_every_other_block_where_windows_leave_a_rest():
  """A token hears of others through its own window alone."""
  attention = swin.Attention(1, 2, True, jnp.float32)

  def reached(shifted, side, at):
    module = attention.copy(shifted=shifted)
    x = np.random.default_rng(0).normal(size=(1, side, side, 4))
    params = module.init(jax.random.key(0), x)

    def token(x):
      return module.apply(params, x)[0, *at].sum()

    touched = np.abs(jax.jit(jax.grad(token))(x))[0].sum(axis=-1) > 0
    return [(int(i), int(j)) for i, j in np.argwhere(touched)]

  assert reached(False, 4, (2, 2)) == [(2, 2), (2, 3), (3, 2), (3, 3)]
  assert reached(True, 4, (2, 2)) == [(1, 1), (1, 2), (2, 1), (2, 2)]
  assert reached(True, 4, (3, 3)) == [(3, 3)]  # its window's rest was rolled
  assert reached(True, 2, (0, 0)) == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_a_swin_drops_branches_of_all_blocks_but_the_first():
  network = small('swin_tiny').clone(drop_path=0.2)
  keys = {'params': jax.random.key(0), 'dropout': jax.random.key(1)}
  image = jnp.zeros((2, 16, 16, 3))
  variables = jax.eval_shape(lambda: network.init(keys, image, train=True))

  def draws(train):
    def logits(variables):
      return network.apply(variables, image, train=train, rngs=keys)

    return str(jax.make_jaxpr(logits)(variables)).count('name=_bernoulli')

  assert (draws(True), draws(False)) == (4, 0)


def test_a_swins_index_in_a_file_is_left_out_with_a_line(tmp_path):
  network = small('swin_tiny')
  rng = np.random.default_rng(0)
  state = {
    name: rng.normal(size=shape).astype(np.float32)
    for name, shape in convert.originals(network).items()
  }
  index = {name: value for name, value in state.items() if 'index' in name}
  state |= {name: np.zeros(value.shape, int) for name, value in index.items()}
  safetensors.save_file(state, tmp_path / 'a.safetensors')
  notes = []
  convert.load(network, tmp_path / 'a.safetensors', say=notes.append)
  assert len(index) == 3
  assert len(notes) == 1
  assert notes[0].startswith('3 indices were left out')


def test_images_of_another_size_are_refused_by_a_vit():
  with pytest.raises(errors.UsageError, match=r'32x32 pixels, .* for 224'):
    jax.eval_shape(lambda: initial(models.make('vit_tiny', 10), 32))


def test_older_names_of_torchvisions_layers_load_too():
  network = models.make('vit_tiny', 3, depth=2, stages=1, embedding=8, heads=2)
  plan = convert.plans(network)['torchvision, before 0.13']
  hidden = plan['params', 'block2', 'hidden', 'kernel']
  assert hidden == 'encoder.layers.encoder_layer_1.mlp.linear_1.weight'
  first = next(iter(convert.plans(network).values()))
  renamed = {first[path]: name for path, name in plan.items()}
  rng = np.random.default_rng(0)
  state = {
    renamed[name]: rng.normal(size=shape).astype(np.float32)
    for name, shape in convert.originals(network).items()
  }
  params = convert.convert(network, state)['params']
  np.testing.assert_array_equal(
    params['block2']['hidden']['kernel'], state[hidden].T
  )
  qkv = state['encoder.layers.encoder_layer_0.self_attention.in_proj_weight']
  got = params['block1']['attention']['qkv']['kernel']
  np.testing.assert_array_equal(got, qkv.T)
