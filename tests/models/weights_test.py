"""PyTorch's weights give here what they give there, or an error that says why.

The files under tests/vectors/networks say what the originals computed;
tests/vectors/make_networks.py made them.
"""

import fractions
import functools
import gzip
import io
import pathlib
import pickle
import sys
import tarfile

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import numpy as safetensors

from kd_jax import errors, models
from kd_jax.models.pretrained import convert, layouts
from tests import tiny
from tests.models import networks_test, saved
from tests.vectors import compare_networks

FILES = sorted(
  (pathlib.Path(__file__).parent.parent / 'vectors/networks').glob('*.npz')
)


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_an_originals_weights_give_its_logits_and_taps(path):
  arrays, meta = compare_networks.load(path)
  variables = convert.convert(
    compare_networks.network(meta), compare_networks.state(meta)
  )
  assert compare_networks.parameters(variables) == meta['params']
  found = compare_networks.differences(arrays, meta, variables)
  # float32 through many layers; ReLU6 cuts sums of large terms.
  assert max(found.values()) < 1e-4, found


def test_every_class_of_classifiers_has_an_original():
  tested = {
    type(compare_networks.network(compare_networks.load(path)[1]))
    for path in FILES
  }
  assert tested == {type(models.make(n, 2)) for n in networks_test.CLASSIFIERS}


def comes_back(network):
  """Checks what the names of PyTorch make of a network's random arrays."""
  rng = np.random.default_rng(0)
  shapes = traverse_util.flatten_dict(convert.shapes(network))
  variables = {
    path: rng.normal(size=value.shape).astype(np.float32)
    for path, value in shapes.items()
  }
  for layout in convert.plans(network):
    state, named = convert.state_dict(network, variables, layout)
    assert named == layout
    back = traverse_util.flatten_dict(convert.convert(network, state))
    assert back.keys() == variables.keys()
    for path, value in variables.items():
      np.testing.assert_array_equal(back[path], value)


# Of each class whose original has what Linen's layers lack: sides of 1, or the
# index of a Swin's biases.
WITH_MORE = (
  'convnext_timm', 'convnext_torchvision', 'efficientnet_timm',
  'efficientnet_torchvision', 'mobilenetv3_torchvision', 'regnety_timm',
  'regnety_torchvision', 'swin_torchvision',
)  # fmt: skip


@pytest.mark.parametrize('name', WITH_MORE)
def test_a_state_dict_has_its_originals_names_shapes_and_values(
  name, monkeypatch
):
  meta = compare_networks.load(FILES[0].with_stem(name))[1]
  network, state = compare_networks.network(meta), compare_networks.state(meta)
  expected = convert.shapes(network)
  monkeypatch.setattr(convert, 'shapes', lambda _: expected)
  variables = traverse_util.flatten_dict(convert.convert(network, state))
  found, _ = convert.state_dict(network, variables, name.split('_')[1])
  wanted = {n: x for n, x in state.items() if 'num_batches' not in n}
  assert found.keys() == wanted.keys()
  for key, value in wanted.items():
    np.testing.assert_array_equal(found[key], value, strict=True)
  shapes = convert.originals(network, name.split('_')[1])
  assert shapes == {key: value.shape for key, value in wanted.items()}


@pytest.mark.parametrize('name', networks_test.NARROW)
def test_what_goes_to_pytorch_comes_back_bit_for_bit(name):
  comes_back(networks_test.narrow(name))


@pytest.mark.drill
@pytest.mark.parametrize(
  'name',
  [n for n in models.NETWORKS if layouts.layouts(models.make(n, 7))],
)
def test_every_network_goes_to_pytorch_and_comes_back(name):
  comes_back(models.make(name, 7))


def test_the_names_of_another_library_are_chosen_by_a_part_of_them():
  network = networks_test.narrow('mobilenetv2_imagenet')
  shapes = traverse_util.flatten_dict(convert.shapes(network))
  zeros = {path: np.zeros(value.shape) for path, value in shapes.items()}
  state, named = convert.state_dict(network, zeros, 'TIMM')
  assert named.startswith('timm')
  assert state['conv_stem.weight'].shape == (16, 3, 3, 3)
  with pytest.raises(errors.UsageError, match=r"layout='keras'.*torchvision"):
    convert.state_dict(network, zeros, 'keras')
  with pytest.raises(
    errors.UsageError, match=r'not all of MobileNetV2: \d+ mis'
  ):
    convert.state_dict(network, {})


@functools.cache
def _small():
  network = models.make('resnet8', 10)
  state = {
    name: np.random.default_rng(0).normal(size=shape).astype(np.float32)
    for name, shape in convert.originals(network).items()
  }
  return network, state, convert.convert(network, state)


def small():
  """A small network, an original's state dict for it, what that becomes."""
  network, state, variables = _small()
  return network, dict(state), variables


def same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_kernels_are_transposed_and_statistics_kept():
  _, state, variables = small()
  kernel = variables['params']['stage2_block1']['conv1']['kernel']
  assert kernel.shape == (3, 3, 16, 32)
  assert kernel[0, 1, 2, 3] == state['layer2.0.conv1.weight'][3, 2, 0, 1]
  fc = variables['params']['fc']
  np.testing.assert_array_equal(fc['kernel'], state['fc.weight'].T)
  stats = variables['batch_stats']['stage3_block1']['shortcut_bn']
  want = state['layer3.0.downsample.1.running_var']
  np.testing.assert_array_equal(stats['var'], want)


def test_converted_variables_have_the_networks_tree_and_dtypes():
  network, _, variables = small()
  want = convert.shapes(network)
  assert jax.tree.structure(variables) == jax.tree.structure(want)
  jax.tree.map(
    lambda a, b: np.testing.assert_equal(
      (a.shape, a.dtype), (b.shape, b.dtype)
    ),
    variables,
    want,
  )


@pytest.mark.parametrize('prefix', ['', 'module.', 'module._orig_mod.'])
def test_safetensors_are_read_without_torch(prefix, tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'torch', None)
  network, state, variables = small()
  state = {prefix + name: value for name, value in state.items()}
  safetensors.save_file(state, tmp_path / 'a.safetensors')
  same(convert.load(network, tmp_path / 'a.safetensors'), variables)


def test_half_precision_becomes_float32(tmp_path):
  network, state, _ = small()
  for dtype in (np.float16, jnp.bfloat16):
    half = {name: value.astype(dtype) for name, value in state.items()}
    safetensors.save_file(half, tmp_path / 'a.safetensors')
    found = convert.load(network, tmp_path / 'a.safetensors')
    want = {name: value.astype(np.float32) for name, value in half.items()}
    same(found, convert.convert(network, want))


def test_counters_of_batches_are_passed_over():
  network, state, variables = small()
  state['bn1.num_batches_tracked'] = np.array(7)
  same(convert.convert(network, state), variables)


def test_all_that_does_not_fit_is_named():
  network, state, _ = small()
  del state['bn1.weight'], state['layer2.0.conv2.weight']
  state['trans_fusion_module.conv.weight'] = np.zeros((1, 1))
  state['fc.weight'] = np.zeros((100, 64))
  state['fc.bias'] = np.zeros(100)
  with pytest.raises(errors.UsageError) as caught:
    convert.convert(network, state)
  said = str(caught.value)
  assert '2 missing: ' in said
  assert 'bn1.weight' in said
  assert 'layer2.0.conv2.weight' in said
  assert '1 unexpected: trans_fusion_module.conv.weight' in said
  assert 'fc.weight (100, 64), the network has (10, 64)' in said
  assert 'num_classes=10' in said


def test_many_problems_are_counted():
  network = models.make('resnet8', 10)
  with pytest.raises(errors.UsageError, match=r'\d+ missing.*and \d+ more'):
    convert.convert(network, {'fc.bias': np.zeros(10)})


def test_the_weights_of_a_deeper_network_are_not_loaded_in_part():
  state = {
    name: np.zeros(shape)
    for name, shape in convert.originals(models.make('resnet14', 10)).items()
  }
  with pytest.raises(errors.UsageError, match=r'unexpected: layer1\.1'):
    convert.convert(models.make('resnet8', 10), state)


def test_a_network_of_ones_own_is_refused():
  with pytest.raises(errors.UsageError, match='Plain has no names of PyTorch'):
    convert.convert(tiny.Plain(), {})


def test_a_file_that_is_not_there_is_named(tmp_path):
  with pytest.raises(errors.UsageError, match='no file of weights'):
    convert.load(small()[0], tmp_path / 'none.pth')


WRITERS = {
  'safetensors': lambda state, path: safetensors.save_file(
    {name: np.asarray(value) for name, value in state.items()}, path
  ),
  'torch': lambda state, path: saved.save(saved.tensors(state), path),
  'old torch': lambda state, path: saved.save_stream(
    saved.tensors(state), path
  ),
}


@pytest.mark.parametrize('writer', WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize('dtype', [np.float16, np.float32, np.float64])
def test_floats_of_every_width_load_and_other_numbers_are_refused(
  writer, dtype, tmp_path
):
  network, state, variables = small()
  floats = {name: value.astype(dtype) for name, value in state.items()}
  writer(floats, tmp_path / 'a.pt')
  want = convert.convert(network, floats)
  same(convert.load(network, tmp_path / 'a.pt'), want)
  if dtype != np.float32:
    return
  same(want, variables)
  for wrong in (np.int8, np.int64, np.uint8):
    other = floats | {'fc.weight': floats['fc.weight'].astype(wrong)}
    writer(other, tmp_path / 'b.pt')
    with pytest.raises(errors.UsageError) as caught:
      convert.load(network, tmp_path / 'b.pt')
    name = np.dtype(wrong).name
    assert f'fc.weight is {name}, and only floating' in str(caught.value)


def test_float8_and_quantised_weights_are_refused_by_name(tmp_path):
  network, state, _ = small()
  eighth = state | {'fc.weight': state['fc.weight'].astype(jnp.float8_e4m3fn)}
  safetensors.save_file(eighth, tmp_path / 'a.safetensors')
  with pytest.raises(errors.UsageError, match=r'fc\.weight is float8_e4m3fn'):
    convert.load(network, tmp_path / 'a.safetensors')
  content = saved.tensors(state)
  content['conv1.weight'] = saved.Tensor(np.zeros((16, 3, 3, 3), 'i1'), True)
  for save in (saved.save, saved.save_stream):
    save(content, tmp_path / 'a.pth')
    with pytest.raises(errors.UsageError, match=r'conv1\.weight is qint8'):
      convert.load(network, tmp_path / 'a.pth')
  content['conv1.weight'] = fractions.Fraction(1, 2)  # any class's object
  saved.save(content, tmp_path / 'a.pth')
  with pytest.raises(errors.UsageError, match=r'conv1\.weight is a fractions'):
    convert.load(network, tmp_path / 'a.pth')


@pytest.mark.parametrize('wrong', [np.nan, np.inf, 1e300])
def test_a_value_that_is_not_finite_is_found_with_its_name(wrong, tmp_path):
  network, state, _ = small()
  value = state['bn1.weight'].astype(np.float64)
  value[3] = wrong
  safetensors.save_file(state | {'bn1.weight': value}, tmp_path / 'a.bin')
  with pytest.raises(errors.UsageError) as caught:
    convert.load(network, tmp_path / 'a.bin')
  assert 'bn1.weight has 1 of 16 values that are no finite' in str(caught.value)


def nested(prefix, state):
  """A content in which a state dict stands under keys, joined by dots."""
  for key in reversed(prefix.split('.')):
    state = {key: state}
  return state


@pytest.mark.parametrize('key', ['net', 'model_state_dict', 'weights', 'a.b'])
@pytest.mark.parametrize(
  'prefix', ['', 'module.', 'model.', 'module.student.', '_orig_mod.module.']
)
def test_keys_and_prefixes_in_any_nesting_are_found(key, prefix, tmp_path):
  network, state, variables = small()
  named = {prefix + name: value for name, value in state.items()}
  named['bn1.num_batches_tracked'] = np.array(7)
  content = nested(key, saved.tensors(named))
  saved.save({'epoch': 3, **content}, tmp_path / 'a.ckpt')
  notes = []
  found = convert.load(network, tmp_path / 'a.ckpt', say=notes.append)
  same(found, variables)
  taken = f'{key}.{prefix}'.rstrip('.')
  assert f"the weights under '{taken}' were taken; left: 'epoch'" in notes[0]


def test_counters_and_an_average_are_left_out_with_a_line(tmp_path):
  network, state, variables = small()
  counted = {'n_averaged': np.array(5)} | {
    f'module.{name}': value for name, value in state.items()
  }
  for name in ('total_ops', 'total_params', 'conv1.total_ops'):
    counted[f'module.{name}'] = np.array([3.0])
  saved.save(saved.tensors(counted), tmp_path / 'a.pt')
  notes = []
  same(convert.load(network, tmp_path / 'a.pt', say=notes.append), variables)
  assert notes == [
    "the weights under 'module' were taken; left: 'n_averaged'",
    '3 numbers that count were left out (total_ops, total_params)',
  ]


def test_of_several_the_usual_is_taken_and_said_and_another_by_its_key(
  tmp_path,
):
  network, state, variables = small()
  average = {name: value / 2 for name, value in state.items()}
  content = {
    'model_ema': {'module': saved.tensors(average)},
    'optimizer': {'state': {0: {'step': saved.Tensor(np.zeros(()))}}},
    'model': saved.tensors(state),
    'best': np.float64(70.5),  # numpy's scalar, which is not read
  }
  saved.save(content, tmp_path / 'a.pth')
  notes = []
  same(convert.load(network, tmp_path / 'a.pth', say=notes.append), variables)
  assert notes == [
    "the weights under 'model' were taken; left: 'model_ema', 'optimizer', "
    "'best'",
    "the network fits under 'model_ema.module' too",
  ]
  for key in ('model_ema', 'model_ema.module'):
    found = convert.load(network, tmp_path / 'a.pth', key)
    same(found, convert.convert(network, average))
  with pytest.raises(
    errors.ArgumentError,
    match=r"key='ema': .*under 'model_ema.module', 'model'",
  ):
    convert.load(network, tmp_path / 'a.pth', 'ema')


def test_of_two_that_are_as_good_neither_is_taken(tmp_path):
  network, state, variables = small()
  both = {
    f'{player}.{name}': value
    for player in ('student', 'teacher')
    for name, value in state.items()
  }
  saved.save({'state_dict': saved.tensors(both)}, tmp_path / 'a.ckpt')
  with pytest.raises(
    errors.ArgumentError,
    match=r"fits under 'state_dict.student', 'state_dict.teacher'; say which",
  ):
    convert.load(network, tmp_path / 'a.ckpt')
  key = 'state_dict.teacher'
  same(convert.load(network, tmp_path / 'a.ckpt', key), variables)


def test_all_of_a_pickle_but_tensors_is_inert(tmp_path):
  network, state, variables = small()
  content = {'model': saved.tensors(state), 'more': Code(), 'args': Code}
  for save in (saved.save, saved.save_stream):
    save(content, tmp_path / 'a.pth')
    same(convert.load(network, tmp_path / 'a.pth'), variables)
    save(fractions.Fraction(1, 2), tmp_path / 'b.pth')
    with pytest.raises(
      errors.UsageError, match=r'a whole pickled model \(fractions\.Fraction\)'
    ):
      convert.load(network, tmp_path / 'b.pth')


class Code:
  """Runs code where it is unpickled."""

  def __reduce__(self):
    return exec, ('raise SystemExit("ran code")',)


def tar(path):
  with tarfile.open(path, 'w') as archive:
    for name in ('student.pth', 'teacher.pth'):
      archive.addfile(tarfile.TarInfo(name), io.BytesIO())


def array(path):
  with path.open('wb') as file:
    np.savez(file, a=1)


NO_WEIGHTS = {
  'is empty': lambda path: path.touch(),
  'a pointer of git-lfs': lambda path: path.write_text(
    'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n'
  ),
  'a web page': lambda path: path.write_text('\n<!DOCTYPE html>\n<html>'),
  "a tar archive, of 'student.pth', 'teacher.pth'": tar,
  "no state dict: its entries are 'epoch'": lambda path: saved.save(
    {'epoch': 3}, path
  ),
  'holds a list and no state dict': lambda path: saved.save([3], path),
  'a pickle that torch.save did not write': lambda path: path.write_bytes(
    pickle.dumps({'a': 1})
  ),
  'a zip archive without': array,
  'an HDF5 file': lambda path: path.write_bytes(b'\x89HDF\r\n\x1a\n'),
  'compressed: unpack': lambda path: path.write_bytes(gzip.compress(b'a')),
  'JSON text': lambda path: path.write_text('{"a": 1}'),
  'is no file of weights': lambda path: path.write_text('weights\n'),
  'is a folder': lambda path: path.mkdir(),
}


@pytest.mark.parametrize('what', NO_WEIGHTS)
def test_a_file_of_something_else_says_what_it_is(what, tmp_path):
  path = tmp_path / 'a.pth'
  NO_WEIGHTS[what](path)
  with pytest.raises(errors.UsageError) as caught:
    convert.load(small()[0], path)
  assert what in str(caught.value)
  one_plain_line(caught.value)


def one_plain_line(error):
  """Asserts that an error is a line in our own words, with no bad advice."""
  said = str(error)
  assert said.isprintable(), said
  assert 'weights_only' not in said
  assert len(said) < 2000


def wrongs(data, rng):
  """Yields files that were cut off, and files with other bytes."""
  for _ in range(30):
    yield data[: rng.integers(len(data))]
  for most in (1, 8, 64):
    for _ in range(30):
      other = bytearray(data)
      # Half of them where a file says what it holds.
      end = len(data) if rng.random() < 0.5 else min(len(data), 3000)
      for place in rng.integers(end, size=most):
        other[place] = rng.integers(256)
      yield bytes(other)


@pytest.mark.parametrize('writer', WRITERS.values(), ids=WRITERS)
def test_a_damaged_file_is_one_line_or_loads_finite_weights(
  writer, tmp_path, monkeypatch
):
  network, state, variables = small()
  shapes = convert.shapes(network)
  monkeypatch.setattr(convert, 'shapes', lambda _: shapes)
  path, rng = tmp_path / 'a.pth', np.random.default_rng(0)
  writer(state | {'bn1.num_batches_tracked': np.array(3)}, path)
  refused, loaded = 0, 0
  for data in wrongs(path.read_bytes(), rng):
    path.write_bytes(data)
    try:
      found = convert.load(network, path)
    except errors.UsageError as error:
      one_plain_line(error)
      refused += 1
    else:
      assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))
      assert jax.tree.structure(found) == jax.tree.structure(variables)
      loaded += 1
  assert refused > 60  # every one that was cut off, and most others
  assert refused + loaded == 120


@pytest.mark.parametrize('seed', range(20))
def test_other_dtypes_and_shapes_are_refused_by_name(seed, tmp_path):
  network, state, _ = small()
  rng = np.random.default_rng(seed)
  name = rng.choice(list(state))
  value = state[name]
  changed = rng.choice(['dtype', 'shape', 'less', 'name'])
  other = {
    'dtype': lambda: {name: value.astype(rng.choice(['i1', 'i4', 'u2', 'i8']))},
    'shape': lambda: {name: value[None] if rng.random() < 0.5 else value[:-1]},
    'less': lambda: {name: value.ravel()[:0]},
    'name': lambda: {f'{name}.more': value},
  }[changed]()
  safetensors.save_file(state | other, tmp_path / 'a.safetensors')
  with pytest.raises(errors.UsageError) as caught:
    convert.load(network, tmp_path / 'a.safetensors')
  assert str(name) in str(caught.value)
  one_plain_line(caught.value)


def test_what_torch_itself_writes_is_read(tmp_path):
  torch = pytest.importorskip('torch')
  network, state, variables = small()
  tensors = {'module.' + k: torch.tensor(v) for k, v in state.items()}
  for number, is_zip in enumerate((True, False)):
    path = tmp_path / f'{number}.PTH'
    more = {'args': Code(), 'best': np.float64(3), 'model_ema': tensors}
    torch.save(
      {'model': tensors, **more}, path, _use_new_zipfile_serialization=is_zip
    )
    same(convert.load(network, path), variables)
    wide = {k: v.double() for k, v in tensors.items()}
    wide = {
      k: torch.nn.Parameter(v.T.contiguous().T) if v.ndim == 2 else v
      for k, v in wide.items()
    }
    torch.save(wide, path, _use_new_zipfile_serialization=is_zip)
    same(convert.load(network, path), variables)
    half = {k: v.bfloat16() for k, v in tensors.items()}
    torch.save(half, path, _use_new_zipfile_serialization=is_zip)
    want = {k: v.astype(jnp.bfloat16) for k, v in state.items()}
    same(convert.load(network, path), convert.convert(network, want))
    torch.save(
      torch.nn.Linear(2, 3), path, _use_new_zipfile_serialization=is_zip
    )
    with pytest.raises(errors.UsageError, match='whole pickled model'):
      convert.load(network, path)
