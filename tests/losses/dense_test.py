import jax
from jax import test_util
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import losses
from kd_jax.losses import dense
from tests.losses import shapes

RNG = np.random.default_rng(0)
LOGITS, OTHER = RNG.normal(size=(2, 2, 3, 4, 5)).astype(np.float32)
LABELS = RNG.integers(0, 5, (2, 3, 4)).astype(np.int32)
LABELS[0, 1] = LABELS[1, 2, 3] = dense.VOID


def test_cross_entropy_is_the_mean_over_labelled_positions_of_the_batch():
  rows, labels = LOGITS.reshape(-1, 5), LABELS.ravel()
  kept = labels != dense.VOID
  assert 0 < kept.sum() < len(kept)
  want = losses.cross_entropy(jnp.asarray(rows[kept]), labels[kept])
  found = losses.masked_cross_entropy(LOGITS, LABELS)
  np.testing.assert_allclose(found, want, rtol=1e-6)


@pytest.mark.parametrize('void', [dense.VOID, -1, 5])
def test_a_position_without_a_class_has_no_gradient(void):
  labels = np.where(LABELS == dense.VOID, void, LABELS)
  value, grad = jax.value_and_grad(losses.masked_cross_entropy)(LOGITS, labels)
  assert value == losses.masked_cross_entropy(LOGITS, LABELS)
  assert not np.any(np.asarray(grad)[LABELS == dense.VOID])
  assert np.asarray(grad)[LABELS != dense.VOID].all()
  test_util.check_grads(
    lambda x: losses.masked_cross_entropy(x, labels),
    (LOGITS,),
    1,
    ['rev'],
    rtol=1e-2,
  )


def test_no_nan_is_made_where_a_position_has_no_class():
  with jax.debug_nans(True):
    jax.grad(losses.masked_cross_entropy)(LOGITS, LABELS)


def test_a_batch_without_a_label_loses_nothing_and_teaches_nothing():
  labels = np.full_like(LABELS, dense.VOID)
  value, grad = jax.value_and_grad(losses.masked_cross_entropy)(LOGITS, labels)
  assert value == 0
  assert not np.any(grad)


def test_the_divergence_of_scores_is_that_of_all_positions_as_rows():
  rows = (x.reshape(-1, 5) for x in (LOGITS, OTHER))
  want = losses.kl(*rows, 3.0)
  found = losses.kl_of_positions(LOGITS, OTHER, 3.0)
  np.testing.assert_allclose(found, want, rtol=1e-6)
  assert losses.kl_of_positions(LOGITS, LOGITS, 3.0) == 0


def test_other_shapes_are_refused():
  with pytest.raises(shapes.MismatchError, match='labels is'):
    losses.masked_cross_entropy(LOGITS, LABELS[:, :2])
  with pytest.raises(shapes.MismatchError, match='teacher is'):
    losses.kl_of_positions(LOGITS, OTHER[:, :2], 3.0)
