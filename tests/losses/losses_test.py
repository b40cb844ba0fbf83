"""What every loss keeps: float32, whatever it is given."""

import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import losses


def pair(*shape):
  rng = np.random.default_rng(0)
  return tuple(
    jnp.asarray(x, jnp.bfloat16) for x in rng.normal(size=(2, *shape))
  )


MAPS, VECTORS = (4, 6, 6, 8), (6, 10)
LABELS = np.arange(6, dtype=np.int32)
CALLS = {
  'activation_boundary': (MAPS, (1.0,)),
  'attention_transfer': (MAPS, ()),
  'correlation': (VECTORS, ()),
  'cosine_distance': (VECTORS, ()),
  'diversity': (MAPS, ()),
  'factor_transfer': (MAPS, ()),
  'hierarchical_context': (MAPS, ()),
  'inter_class': (VECTORS, (2.0,)),
  'inter_layer': (MAPS, ()),
  'intra_class': (VECTORS, (2.0,)),
  'kl': (VECTORS, (4.0,)),
  'kl_of_positions': (MAPS, (4.0,)),
  'mse': (MAPS, ()),
  'nckd': (VECTORS, (LABELS, 4.0)),
  'neuron_selectivity': (MAPS, ()),
  'partial_l2': (MAPS, (-np.ones(8, np.float32),)),
  'probabilistic_transfer': (VECTORS, ()),
  'relational_angle': (VECTORS, ()),
  'relational_distance': (VECTORS, ()),
  'similarity_preserving': (MAPS, ()),
  'smooth_l1': (VECTORS, ()),
  'tckd': (VECTORS, (LABELS, 4.0)),
  'unit_distance': (MAPS, ()),
  'variational': (MAPS, (np.ones(8, np.float32),)),
}
# What takes no pair of features: parts of losses, and what is tested elsewhere.
OTHERS = {
  'aligned', 'attention_map', 'avg_pool_to', 'classes', 'contrastive',
  'cross_entropy', 'flat', 'flow', 'guided_kl', 'inter_layers', 'intra_layer',
  'kl_per_image', 'margin', 'masked_cross_entropy', 'mean_of_teachers',
  'multibox', 'multibox_kl', 'multibox_selected', 'position_cross_entropies',
  'shifted_map', 'similarities', 'softmax_weighted_sum', 'standardized', 'unit',
}  # fmt: skip


def test_every_loss_has_a_case():
  assert {*CALLS, *OTHERS} == set(losses.__all__)


@pytest.mark.parametrize('name', CALLS)
def test_bfloat16_features_are_computed_in_float32(name):
  shape, rest = CALLS[name]
  a, b = pair(*shape)
  got = getattr(losses, name)(a, b, *rest)
  wide = (x.astype(jnp.float32) for x in (a, b))
  assert got.dtype == jnp.float32
  assert got.shape == ()
  np.testing.assert_array_equal(got, getattr(losses, name)(*wide, *rest))
