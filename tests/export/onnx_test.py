"""An ONNX file is written only where it computes what the network does."""

import collections
import functools
import json
import shutil
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import errors, models
from kd_jax.cli import export
from kd_jax.data.sets import digits
from kd_jax.export import artifact, onnx
from kd_jax.training import restore
from tests import finished

try:
  import jax2onnx  # noqa: F401
  import onnxruntime
except ImportError:
  onnxruntime = None
needs_onnx = pytest.mark.skipif(
  onnxruntime is None, reason='needs kd_jax[onnx]'
)


def facts(**more):
  return {
    'network': 'net',
    'image_size': 16,
    'dtype': 'float32',
    **more,
  }


def of(forward, weights=None, **more):
  return artifact.Trained(weights or {}, forward, facts(**more))


@needs_onnx
@pytest.mark.parametrize('name', ['kd', 'pics'])
def test_onnxruntime_counts_as_the_run_did(name, tmp_path):
  found = restore.load(finished.places() / name)
  onnx.write(found, tmp_path / 'student.onnx')
  session = onnxruntime.InferenceSession(
    tmp_path / 'student.onnx', providers=['CPUExecutionProvider']
  )
  test = digits.read('test')
  (logits,) = session.run(None, {'images': test.image})
  right = (logits.argmax(axis=-1) == test.labels).sum()
  assert right == finished.correct(finished.result(name))


@functools.cache
def written():
  """The ONNX file of a network without zeros, with the oldest operators."""
  rng = np.random.default_rng(0)
  found = restore.load(finished.places() / 'kd')
  moved = {
    name: value + rng.uniform(0.1, 0.2, value.shape).astype(np.float32)
    for name, value in found.weights.items()
  }
  content = onnx.convert(found._replace(weights=moved), onnx.OPSETS[0])
  onnx.check(found._replace(weights=moved), content)
  return content


@needs_onnx
def test_every_batchnorm_behind_a_convolution_is_folded_into_it():
  import onnx as onnx_lib

  model = onnx_lib.ModelProto.FromString(written())
  kinds = collections.Counter(node.op_type for node in model.graph.node)
  assert kinds['Conv'] == 9
  assert kinds['Add'] == 3  # of the residual blocks
  assert not {'Mul', 'Sqrt', 'Reshape'} & kinds.keys()
  assert kinds['Transpose'] == 1  # of the images
  constants = {tensor.name for tensor in model.graph.initializer}
  assert all(
    node.input[1] in constants
    for node in model.graph.node
    if node.op_type == 'Conv'
  )
  opsets = [(o.domain, o.version) for o in model.opset_import]
  assert opsets == [('', onnx.OPSETS[0])]


@needs_onnx
def test_onnxruntimes_static_quantisation_covers_every_convolution(tmp_path):
  import onnx as onnx_lib
  from onnxruntime import quantization

  class Images(quantization.CalibrationDataReader):
    def __init__(self):
      self.batches = iter(np.split(digits.read('train').image[:96], 3))

    def get_next(self):
      batch = next(self.batches, None)
      return None if batch is None else {'images': batch}

  content, path = written(), tmp_path / 'int8.onnx'
  (tmp_path / 'float.onnx').write_bytes(content)
  quantization.quantize_static(
    tmp_path / 'float.onnx', path, Images(), per_channel=True
  )
  model = onnx_lib.load(path)
  made = {o: node.op_type for node in model.graph.node for o in node.output}
  convolutions = [n for n in model.graph.node if n.op_type == 'Conv']
  assert len(convolutions) == 9
  for node in convolutions:
    inputs = [made[name] for name in node.input[:2]]
    assert inputs == ['DequantizeLinear'] * 2
  test = digits.read('test')
  logits = [
    onnxruntime.InferenceSession(file, providers=['CPUExecutionProvider']).run(
      None, {'images': test.image}
    )[0]
    for file in (content, path)
  ]
  # 8 bits of random weights; a network that is not quantised has 0.
  far = np.abs(logits[1] - logits[0]).max() / np.abs(logits[0]).max()
  assert 0 < far < 0.2


@needs_onnx
def test_a_run_in_bfloat16_is_written_in_float32(tmp_path, capsys):
  run = shutil.copytree(finished.places() / 'kd', tmp_path / 'run')
  config = json.loads((run / 'config.json').read_text())
  (run / 'config.json').write_text(json.dumps(config | {'dtype': 'bfloat16'}))
  out = tmp_path / 'out'
  assert export.main([str(run), str(out), '--onnx', '--opset', '18']) == 0
  said = capsys.readouterr().out.splitlines()[-1]
  assert said.endswith(
    'opset 18, computes in float32, where the run did in bfloat16'
  )
  onnx.check(restore.load(run, dtype='float32'), (out / onnx.FILE).read_bytes())


@pytest.mark.parametrize(
  ('name', 'arguments', 'said'),
  [
    ('kd', ['--onnx', '--opset', '9'], '--opset=9: versions 17 to 23'),
    ('kd', ['--opset', '18'], '--opset is for --onnx'),
    ('kd_out', ['--onnx'], 'give the folder of its run'),
  ],
)
def test_what_onnx_cannot_have_is_one_line(
  name, arguments, said, tmp_path, capsys
):
  run = str(finished.places() / name)
  assert export.main([run, str(tmp_path / 'out'), *arguments]) == 2
  error = capsys.readouterr().err
  assert said in error
  assert error.count('\n') == 1


def of_network(network, size, **more):
  """A network with its first weights, beside its forward pass."""
  example = jnp.zeros((1, size, size, 3))
  weights = jax.jit(
    lambda: network.init(jax.random.key(0), example, train=True)
  )
  made = dict(weights())
  made.pop('intermediates', None)

  def forward(weights, images):
    return network.apply(weights, images / jnp.float32(255), train=False)

  return of(forward, made, image_size=size, **more)


@needs_onnx
def test_the_stem_of_imagenet_converts():
  found = of_network(models.make('resnet18', 10, widths=(4, 4, 4, 4, 4)), 16)
  onnx.check(found, onnx.convert(found))


@needs_onnx
def test_every_pixel_has_the_logits_of_jax():
  network = models.make('deeplab_resnet10_small', 5)
  found = of_network(network, 32, task='segmentation')
  content = onnx.convert(found)
  onnx.check(found, content)
  session = onnxruntime.InferenceSession(
    content, providers=['CPUExecutionProvider']
  )
  (output,) = session.get_outputs()
  assert (output.name, output.shape[1:]) == ('logits', [32, 32, 5])


def test_detections_are_not_converted():
  with pytest.raises(errors.UsageError, match='for networks that predict log'):
    onnx.check_task({'task': 'detection'})
  for task in ({}, {'task': 'segmentation'}):
    onnx.check_task(task)


@needs_onnx
def test_what_is_converted_wrongly_is_found_out():
  def forward(weights, images):
    x = nn.max_pool(
      nn.relu(images.astype(jnp.float32)),
      window_shape=(3, 3),
      strides=(2, 2),
      padding=((1, 1), (1, 1)),
    )
    return x.reshape(x.shape[0], 8 * 8 * 3)[:, :10]

  found = of(forward)
  with pytest.raises(errors.RunError, match=r'padded pooling|cannot run'):
    onnx.check(found, onnx.convert(found))


@needs_onnx
def test_what_cannot_be_converted_is_one_line():
  def forward(weights, images):
    raise TypeError('no such\nthing')

  with pytest.raises(errors.UsageError, match=r'TypeError: no such$'):
    onnx.convert(of(forward))


@needs_onnx
def test_of_a_jax_that_jax2onnx_does_not_know_the_cure_is_said(monkeypatch):
  def forward(weights, images):
    raise TypeError('no such\nthing')

  monkeypatch.setattr(jax, '__version_info__', (0, 12, 0, 1))
  with pytest.raises(errors.UsageError, match=r"pip install 'jax<0\.12'"):
    onnx.convert(of(forward))


def test_a_network_in_bfloat16_is_not_converted():
  with pytest.raises(errors.UsageError, match=r"load it with dtype='float32'"):
    onnx.convert(of(lambda weights, images: images, dtype='bfloat16'))


def test_without_jax2onnx_the_cure_is_said_and_nothing_is_left(
  tmp_path, capsys, monkeypatch
):
  monkeypatch.setitem(sys.modules, 'jax2onnx', None)
  run = finished.places() / 'kd'
  assert export.main([str(run), str(tmp_path / 'out'), '--onnx']) == 2
  error = capsys.readouterr().err
  assert "pip install 'kd_jax[onnx]'" in error
  assert error.count('\n') == 1
  assert not list(tmp_path.iterdir())


def test_zeros_around_a_relu_pool_as_nothing_does():
  x = nn.relu(np.random.default_rng(0).normal(size=(2, 9, 9, 3)))
  want = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
  padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  got = nn.max_pool(padded, window_shape=(3, 3), strides=(2, 2))
  np.testing.assert_array_equal(got, want)
