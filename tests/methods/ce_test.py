import numpy as np

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
