"""CKA, correlations and confusion against formulas written out."""

import numpy as np
import pytest

from kd_jax.study import similarity


def features(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape)


def hsic(x, y):
  """Song et al.'s unbiased estimate, term by term."""
  n = len(x)
  k, m = (z.reshape(n, -1) @ z.reshape(n, -1).T for z in (x, y))
  np.fill_diagonal(k, 0)
  np.fill_diagonal(m, 0)
  one = np.ones(n)
  product = np.trace(k @ m)
  product += one @ k @ one * (one @ m @ one) / ((n - 1) * (n - 2))
  product -= 2 / (n - 2) * (one @ k @ m @ one)
  return product / (n * (n - 3))


def cka(x, y):
  return hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y))


def test_cka_is_the_formula_of_the_papers():
  x, y = features(20, 4, 4, 3), features(20, 7, seed=1)
  y[:, :4] += x[:, 0, :, 0]
  assert similarity.linear_cka(x, y) == pytest.approx(cka(x, y), rel=1e-9)
  # The mean of the features does not matter.
  moved = similarity.linear_cka(x + 5, y - 3)
  assert moved == pytest.approx(cka(x, y), rel=1e-9)


def test_batches_are_averaged_by_their_images():
  x, y = features(50, 6), features(50, 5, seed=1)
  y[:, 0] += x[:, 0]
  of_batches = similarity.Cka()
  sums = np.zeros(3)
  for batch in (slice(0, 30), slice(30, 47), slice(47, 50)):
    of_batches.add({'a': x[batch]}, {'b': y[batch]})
    count = len(x[batch])
    if count > 3:  # a smaller one has no estimate
      pairs = ((x, y), (x, x), (y, y))
      sums += [count * hsic(u[batch], v[batch]) for u, v in pairs]
  want = sums[0] / np.sqrt(sums[1] * sums[2])
  assert of_batches.matrix(['a'], ['b'])[0, 0] == pytest.approx(want, rel=1e-9)


def test_cka_is_1_for_turned_and_scaled_features_and_small_for_others():
  x = features(200, 10)
  turn, _ = np.linalg.qr(features(10, 10, seed=1))
  assert similarity.linear_cka(x, x) == pytest.approx(1)
  assert similarity.linear_cka(x, 3.7 * x @ turn) == pytest.approx(1)
  # Not by any linear map: that is what CCA would forgive.
  stretch = np.diag([10.0, *[0.1] * 9])
  assert similarity.linear_cka(x, x @ stretch) < 0.5
  assert abs(similarity.linear_cka(x, features(200, 10, seed=2))) < 0.1


def test_cka_is_not_led_by_many_dimensions():
  """The plain estimate is near 1 here."""
  x, y = features(20, 5000), features(20, 5000, seed=1)
  a, b = (z - z.mean(axis=0) for z in (x, y))
  k, m = a @ a.T, b @ b.T
  assert np.vdot(k, m) / (np.linalg.norm(k) * np.linalg.norm(m)) > 0.9
  assert abs(similarity.linear_cka(x, y)) < 0.2


def test_correlations_are_numpys():
  logits = features(40, 6).astype(np.float32)
  want = np.corrcoef(logits.astype(np.float64), rowvar=False)
  np.testing.assert_allclose(similarity.correlation(logits), want, atol=1e-12)


def test_what_never_varies_has_no_correlation_and_no_cka():
  logits = features(40, 3)
  logits[:, 1] = 0.1
  found = similarity.correlation(logits)
  assert np.isnan(found[1]).all()
  assert found[0, 2] == pytest.approx(np.corrcoef(logits.T)[0, 2])
  assert np.isnan(similarity.linear_cka(logits, np.full((40, 2), 0.1)))


def test_confusion_counts_each_image_at_its_label_and_prediction():
  rng = np.random.default_rng(0)
  labels, predicted = rng.integers(0, 4, (2, 100))
  want = np.zeros((5, 5), int)
  for label, prediction in zip(labels, predicted, strict=True):
    want[label, prediction] += 1
  found = similarity.confusion(labels.astype(np.int32), predicted, 5)
  np.testing.assert_array_equal(found, want)
