"""An ONNX file is written only where it computes what the network does."""

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


@needs_onnx
def test_the_stem_of_imagenet_converts():
  network = models.make('resnet18', 10, widths=(4, 4, 4, 4, 4))
  example = jnp.zeros((1, 16, 16, 3))
  weights = jax.jit(
    lambda: network.init(jax.random.key(0), example, train=True)
  )
  made = dict(weights())
  made.pop('intermediates', None)

  def forward(weights, images):
    return network.apply(weights, images / jnp.float32(255), train=False)

  found = of(forward, made)
  onnx.check(found, onnx.convert(found))


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


def test_bfloat16_is_refused():
  with pytest.raises(errors.UsageError, match='computes in bfloat16'):
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
