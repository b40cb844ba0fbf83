"""PyTorch's weights give here what they give there, or an error that says why.

The files under tests/vectors/networks say what the originals computed;
tests/vectors/make_networks.py made them.
"""

import pathlib
import pickle
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import numpy as safetensors

from kd_jax import errors, models
from kd_jax.models.pretrained import convert
from tests import tiny
from tests.models import networks_test
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


def test_every_class_of_networks_has_an_original():
  tested = {
    type(compare_networks.network(compare_networks.load(path)[1]))
    for path in FILES
  }
  assert tested == {type(models.make(n, 2)) for n in models.NETWORKS}


@pytest.mark.parametrize('name', networks_test.NARROW)
def test_layers_have_different_names_in_every_layout(name):
  plans = convert.plans(networks_test.narrow(name))
  assert plans
  for plan in plans.values():
    assert len(set(plan.values())) == len(plan)


def small():
  """A small network, an original's state dict for it, what that becomes."""
  network = models.make('resnet8', 10)
  state = {
    name: np.random.default_rng(0).normal(size=shape).astype(np.float32)
    for name, shape in convert.originals(network).items()
  }
  return network, state, convert.convert(network, state)


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
    convert.read(tmp_path / 'none.pth')


def test_a_damaged_safetensors_file_is_named(tmp_path):
  (tmp_path / 'a.safetensors').write_bytes(b'12345678')
  with pytest.raises(errors.UsageError, match=r'cannot read .*a\.safetensors'):
    convert.read(tmp_path / 'a.safetensors')


def test_without_torch_a_pickled_file_says_what_to_do(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'torch', None)
  (tmp_path / 'a.pth').touch()
  with pytest.raises(errors.UsageError, match=r'pip install torch.*save_file'):
    convert.read(tmp_path / 'a.pth')


class Tensor:
  """What of torch's tensor the reader uses."""

  def __init__(self, value):
    self.value = value

  def detach(self):
    return self

  def float(self):
    return Tensor(np.asarray(self.value, np.float32))

  def numpy(self):
    return self.value


def torch_that_loads(monkeypatch, found):
  """Stands in for torch; returns how its `load` was called."""
  calls = []

  def load(path, **kwargs):
    calls.append(kwargs)
    if isinstance(found, Exception):
      raise found
    return found

  stub = types.SimpleNamespace(load=load, Tensor=Tensor)
  monkeypatch.setitem(sys.modules, 'torch', stub)
  return calls


@pytest.mark.parametrize('inside', [(), ('model',), ('state_dict',)])
@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_a_training_checkpoint_is_opened(inside, prefix, tmp_path, monkeypatch):
  network, state, variables = small()
  found = {prefix + name: Tensor(value) for name, value in state.items()}
  for key in inside:
    found = {'epoch': 240, key: found, 'accuracy': Tensor(np.zeros(()))}
  calls = torch_that_loads(monkeypatch, found)
  (tmp_path / 'a.pth').touch()
  same(convert.load(network, tmp_path / 'a.pth'), variables)
  assert calls == [{'map_location': 'cpu', 'weights_only': True}]


def test_a_pickle_that_would_run_code_is_refused(tmp_path, monkeypatch):
  torch_that_loads(monkeypatch, pickle.UnpicklingError('Unsupported global'))
  (tmp_path / 'a.pth').touch()
  with pytest.raises(
    errors.UsageError, match=r'Unsupported global.*torch\.save'
  ):
    convert.read(tmp_path / 'a.pth')


@pytest.mark.parametrize(
  ('found', 'message'),
  [({'epoch': 3}, "no state dict: its entries are 'epoch'"), ([], 'a list')],
)
def test_a_file_without_a_state_dict_says_what_it_holds(
  found, message, tmp_path, monkeypatch
):
  torch_that_loads(monkeypatch, found)
  (tmp_path / 'a.pth').touch()
  with pytest.raises(errors.UsageError, match=message):
    convert.read(tmp_path / 'a.pth')


class Code:
  """Runs code where it is unpickled."""

  def __reduce__(self):
    return exec, ('raise SystemExit("ran code")',)


def test_torchs_own_files_are_read_and_code_in_them_is_not_run(tmp_path):
  torch = pytest.importorskip('torch')
  network, state, variables = small()
  found = {'module.' + k: torch.tensor(v) for k, v in state.items()}
  torch.save({'epoch': 1, 'model': found}, tmp_path / 'a.pth')
  same(convert.load(network, tmp_path / 'a.pth'), variables)
  torch.save({'model': found, 'more': Code()}, tmp_path / 'b.pth')
  with pytest.raises(errors.UsageError, match='without running code'):
    convert.load(network, tmp_path / 'b.pth')
