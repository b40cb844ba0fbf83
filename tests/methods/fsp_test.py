from jax import test_util
import numpy as np
import pytest

from kd_jax import errors, losses
from tests.methods import stages

# FSP needs a teacher with the student's channels in the contract test.
EQUAL = ('',)


def test_the_loss_and_its_gradients_are_the_originals():
  stages.assert_original('fsp')


def test_the_flow_is_a_sum_of_channel_products():
  rng = np.random.default_rng(0)
  a = rng.normal(size=(2, 3, 3, 4)).astype(np.float32)
  b = rng.normal(size=(2, 3, 3, 5)).astype(np.float32)
  want = [
    [(a[0, :, :, k] * b[0, :, :, j]).mean() for k in range(4)] for j in range(5)
  ]
  np.testing.assert_allclose(losses.flow(a, b)[0], want, rtol=1e-5, atol=1e-6)


def test_equal_maps_cost_nothing_and_the_gradient_is_right():
  rng = np.random.default_rng(0)
  maps = [rng.normal(size=(2, 4, 4, c)).astype(np.float32) for c in (3, 4)]
  assert stages.term('fsp', maps, maps) == 0
  other = [np.roll(m, 1, axis=0) for m in maps]
  test_util.check_grads(
    lambda x: stages.term('fsp', [x, maps[1]], other), (maps[0],), 1, ['rev'],
    rtol=1e-2,
  )  # fmt: skip


def test_other_channels_are_refused_with_both_shapes():
  maps = [np.zeros((2, 4, 4, 3), np.float32)] * 2
  wide = [np.zeros((2, 4, 4, 5), np.float32)] * 2
  with pytest.raises(errors.UsageError, match=r'\(4, 4, 5\).*\(4, 4, 3\)'):
    stages.term('fsp', maps, wide)
