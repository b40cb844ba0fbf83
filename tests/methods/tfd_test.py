from jax import test_util
import numpy as np
import pytest

from kd_jax import errors, losses
from tests import tiny
from tests.methods import tf_fd_test, vectors


def test_tfd_is_the_inter_layer_half_of_tf_fd():
  case = {
    key: vectors.nhwc(value) if value.ndim == 4 else value
    for key, value in vectors.load('tffd')[0].items()
  }
  maps = tf_fd_test.maps(case)
  taps = tuple(maps)
  half = tf_fd_test.terms(tiny.method('tfd', taps=taps), maps)
  both = tf_fd_test.terms(tiny.method('tf_fd', taps=taps), maps)
  assert set(both) - set(half) == {'intra'}
  for name, value in half.items():
    np.testing.assert_array_equal(value, both[name])
  assert float(half['inter']) > 0


def test_one_map_is_refused():
  with pytest.raises(errors.UsageError, match='give 2 or more'):
    tiny.method('tfd', taps=('stage1',))


def test_the_shallow_maps_gradient_is_that_of_finite_differences():
  rng = np.random.default_rng(0)
  shallow = rng.normal(size=(2, 4, 4, 2)).astype(np.float32)
  deep = rng.normal(size=(2, 2, 2, 4)).astype(np.float32)
  test_util.check_grads(
    lambda x: losses.inter_layer(x, deep), (shallow,), 1, ['rev'], rtol=1e-2
  )
