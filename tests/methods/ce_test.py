from jax import test_util
import numpy as np

from kd_jax import losses
from tests import tiny


def test_it_is_the_mean_log_probability_of_the_labels():
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(8, tiny.CLASSES)).astype(np.float32)
  batch = tiny.batch(8)
  method = tiny.method('ce')
  (term,) = method.apply({}, {'student': {'logits': logits}}, batch).values()
  p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
  want = -np.log(p[np.arange(8), batch['label']]).mean()
  np.testing.assert_allclose(term, want, rtol=1e-5)
  assert method.teachers == ()


def test_the_gradient_is_that_of_finite_differences():
  rng = np.random.default_rng(1)
  logits = rng.normal(size=(4, tiny.CLASSES)).astype(np.float32)
  labels = tiny.batch(4)['label']
  test_util.check_grads(
    lambda z: losses.cross_entropy(z, labels), (logits,), 1, ['rev'], rtol=1e-2
  )
