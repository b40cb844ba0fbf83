"""What a network begins with of weights that are not all its own."""

import functools

import jax
import numpy as np
import pytest
from safetensors import numpy

from kd_jax import errors, models, pytrees
from kd_jax.models import deeplab, mobilenet, resnet, ssd
from kd_jax.models.pretrained import convert, partial

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True, scope='module')
def traced_once():
  """Networks are traced once each."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(convert, 'shapes', functools.cache(convert.shapes))
    yield


def small(classes=10, sizes=(1, 1), widths=(4, 4, 8)):
  return resnet.ResNet(num_classes=classes, stage_sizes=sizes, widths=widths)


def by_path(tree):
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {pytrees.path_name(path): leaf for path, leaf in leaves}


def shapes(network):
  return {
    k: tuple(x.shape) for k, x in by_path(convert.shapes(network)).items()
  }


def random(network):
  """Random values of all variables of a network, by path."""
  return {
    path: RNG.normal(size=shape).astype(np.float32)
    for path, shape in shapes(network).items()
  }


def state_of(network):
  """A random state dict by PyTorch's names, and its values by path."""
  state = {
    name: RNG.normal(size=shape).astype(np.float32)
    for name, shape in convert.originals(network).items()
  }
  return state, by_path(convert.convert(network, state))


def of_file(tmp_path, network, state, **options):
  file = tmp_path / 'weights.safetensors'
  numpy.save_file(state, file)
  return partial.of_file(network, shapes(network), file, **options)


def test_a_head_of_other_classes_is_refused_and_may_be_skipped(tmp_path):
  state, values = state_of(small(7))
  with pytest.raises(errors.ArgumentError) as refused:
    of_file(tmp_path, small(10), state)
  assert str(refused.value) == (
    'skip=(): fc/bias is [7] there and [10] here; fc/kernel is [8, 7] there '
    'and [8, 10] here; give the network and the classes that it was trained '
    "with, or leave out what does not fit, such as ('^fc/',)"
  )
  for taken in (
    of_file(tmp_path, small(10), state, skip=('^fc/',)),
    partial.of_variables(shapes(small(10)), values, ('^fc/',)),
  ):
    assert taken.fresh == ('fc',)
    assert taken.of - taken.parameters == 8 * 10 + 10
    assert any(path.endswith('bn1/var') for path in taken.values)
    assert taken.values.keys() == {
      path for path in values if not path.startswith('params/fc/')
    }
    for path, value in taken.values.items():
      np.testing.assert_array_equal(value, values[path])


def dense_pairs():
  stages = (((1, 8, 1, 1), (6, 8, 1, 2)), ((6, 16, 2, 2),))
  yield (
    models.make('deeplab_resnet10_small', 5),
    resnet.ResNet(
      num_classes=7,
      stage_sizes=(1, 1, 1, 1),
      widths=(16, 16, 32, 48, 64),
      stem='strided',
    ),
  )
  yield (
    deeplab.DeepLabMobileNetV2(num_classes=5, stages=stages),
    mobilenet.MobileNetV2(num_classes=7, stages=stages),
  )


@pytest.mark.parametrize(('dense', 'classifier'), [*dense_pairs()])
def test_a_backbone_begins_as_its_classifier(tmp_path, dense, classifier):
  state, values = state_of(classifier)
  for taken in (
    of_file(tmp_path, dense, state),
    partial.of_variables(shapes(dense), values),
  ):
    assert taken.fresh == ('aspp', 'decoder')
    backbone = {p for p in shapes(dense) if p.split('/')[1] == 'backbone'}
    assert taken.values.keys() == backbone
    for path, value in taken.values.items():
      want = values[path.replace('/backbone/', '/')]
      np.testing.assert_array_equal(value, want)
    assert 'backbone was taken of a classifier; left: ' in taken.notes[-1]


def vgg(hidden=4):
  widths = ((3, 4), (5,), (6,), (7,), (8,))
  return ssd.SSDVGG(
    num_classes=2,
    widths=widths,
    hidden=hidden,
    extras=((4, 4), (4, 4), (4, 4), (4, 4)),
  )


def vgg_state(units=12):
  """A state dict of a classifier with the layers of `vgg`, as torchvision's."""
  shapes_of = {
    0: (3, 3), 2: (4, 3), 5: (5, 4), 8: (6, 5), 11: (7, 6), 14: (8, 7)
  }  # fmt: skip
  state = {}
  for i, (outputs, inputs) in shapes_of.items():
    state[f'features.{i}.weight'] = RNG.normal(size=(outputs, inputs, 3, 3))
    state[f'features.{i}.bias'] = RNG.normal(size=outputs)
  of_head = {0: (units, 8 * 49), 3: (units, units), 6: (1000, units)}
  for i, shape in of_head.items():
    state[f'classifier.{i}.weight'] = RNG.normal(size=shape)
    state[f'classifier.{i}.bias'] = RNG.normal(size=shape[0])
  return {name: x.astype(np.float32) for name, x in state.items()}


def test_hidden_layers_of_a_vgg_become_convolutions(tmp_path):
  state = vgg_state()
  taken = of_file(tmp_path, vgg(), state)
  values = {path.removeprefix('params/backbone/'): x for path, x in
            taken.values.items()}  # fmt: skip
  assert not any(name.startswith('backbone') for name in taken.fresh)
  kernel = state['features.5.weight'].transpose(2, 3, 1, 0)
  np.testing.assert_array_equal(values['stage1_block1/kernel'], kernel)
  first, second = state['classifier.0.weight'], state['classifier.3.weight']
  assert values['conv6/kernel'].shape == (3, 3, 8, 4)
  for i, j, c, unit in ((0, 0, 0, 0), (1, 2, 5, 3), (2, 1, 7, 1)):
    want = first[3 * unit, c * 49 + 3 * i * 7 + 3 * j]
    assert values['conv6/kernel'][i, j, c, unit] == want
  np.testing.assert_array_equal(
    values['conv7/kernel'][0, 0], second[::3, ::3].T
  )
  np.testing.assert_array_equal(
    values['conv6/bias'], state['classifier.0.bias'][::3]
  )


def test_a_vgg_without_hidden_layers_begins_them_at_random(tmp_path):
  whole = vgg_state()
  for state in (
    {k: x for k, x in whole.items() if k.startswith('features')},
    vgg_state(units=13),
  ):
    taken = of_file(tmp_path, vgg(), state)
    assert {'backbone/conv6', 'backbone/conv7'} <= {*taken.fresh}
    assert taken.notes[-1].startswith(
      'backbone/conv6 and backbone/conv7 cannot be made of what is there'
    )


def test_the_reduced_vgg_of_ssds_authors_is_taken_whole(tmp_path):
  network = vgg()
  state = {
    name.removeprefix('vgg.'): RNG.normal(size=shape).astype(np.float32)
    for name, shape in convert.originals(network).items()
    if name.startswith('vgg.')
  }
  taken = of_file(tmp_path, network, state)
  assert not any(name.startswith('backbone') for name in taken.fresh)
  np.testing.assert_array_equal(
    taken.values['params/backbone/conv7/kernel'][0, 0],
    state['19.weight'][:, :, 0, 0].T,
  )


def test_a_dense_networks_own_weights_come_before_its_classifiers(tmp_path):
  network = models.make('deeplab_resnet10_small', 5)
  state, values = state_of(network)
  wrapped = {f'module.{name}': value for name, value in state.items()}
  taken = of_file(tmp_path, network, wrapped)
  assert taken.fresh == ()
  assert taken.values.keys() == values.keys()


@pytest.mark.parametrize(
  ('skip', 'message'),
  [
    (('fcc',), r"unknown parameters 'fcc'; did you mean 'fc/'"),
    (('(',), r"skip=\('\(',\): '\(' is no regular expression"),
    ('fc', r"skip='fc': give a tuple"),
    (('.',), 'leave nothing to be taken'),
  ],
)
def test_a_wrong_pattern_is_refused(skip, message):
  network = small()
  with pytest.raises(errors.ArgumentError, match=message):
    partial.of_variables(shapes(network), random(network), skip)


def test_a_part_of_a_deeper_network_is_refused_and_may_be_taken(tmp_path):
  deep, shallow = small(sizes=(1, 2)), small()
  state, values = state_of(deep)
  with pytest.raises(errors.ArgumentError, match='has no place here') as told:
    partial.of_variables(shapes(shallow), values)
  assert "such as ('^stage2_block2/',)" in str(told.value)
  with pytest.raises(errors.ArgumentError) as told:
    of_file(tmp_path, shallow, state)
  assert "such as ('^layer2[.]',)" in str(told.value)
  taken = partial.of_variables(shapes(shallow), values, ('^stage2_block2/',))
  assert taken.values.keys() == shapes(shallow).keys()


def test_another_network_is_one_line(tmp_path):
  with pytest.raises(errors.UsageError, match='it is another network') as told:
    partial.of_variables(shapes(small()), random(small(7, widths=(5, 6, 7))))
  assert '\n' not in str(told.value)
  with pytest.raises(errors.UsageError, match='it is another network'):
    of_file(tmp_path, small(), vgg_state())


def test_what_is_fresh_is_said_by_the_largest_module():
  network = small()
  values = random(network)
  taken = partial.of_variables(
    shapes(network), values, ('stage1_block1/conv1', '^fc/bias', '^stage2')
  )
  assert taken.fresh == ('fc/bias', 'stage1_block1/conv1', 'stage2_block1')
