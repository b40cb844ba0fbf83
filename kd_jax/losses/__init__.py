"""Distances between arrays: float32 scalars without parameters.

Every loss is a pure function, so that a notebook can call it as
`losses.kl(student, teacher, 4.0)`.
"""

from kd_jax.losses.attention import (
  attention_map,
  attention_transfer,
  neuron_selectivity,
)
from kd_jax.losses.basic import (
  aligned,
  avg_pool_to,
  cosine_distance,
  flat,
  mse,
  smooth_l1,
  softmax_weighted_sum,
  unit,
)
from kd_jax.losses.contrastive import contrastive, similarities
from kd_jax.losses.dense import (
  kl_of_positions,
  masked_cross_entropy,
  position_cross_entropies,
)
from kd_jax.losses.initial import activation_boundary, factor_transfer, flow
from kd_jax.losses.logits import (
  classes,
  cross_entropy,
  guided_kl,
  inter_class,
  intra_class,
  kl,
  kl_per_image,
  mean_of_teachers,
  nckd,
  standardized,
  tckd,
)
from kd_jax.losses.maps import (
  inter_layer,
  inter_layers,
  intra_layer,
  margin,
  partial_l2,
)
from kd_jax.losses.multibox import multibox, multibox_kl, multibox_selected
from kd_jax.losses.online import diversity, shifted_map, unit_distance
from kd_jax.losses.pyramid import hierarchical_context
from kd_jax.losses.relations import (
  correlation,
  probabilistic_transfer,
  relational_angle,
  relational_distance,
  similarity_preserving,
)
from kd_jax.losses.variational import variational

__all__ = [
  'activation_boundary',
  'aligned',
  'attention_map',
  'attention_transfer',
  'avg_pool_to',
  'classes',
  'contrastive',
  'correlation',
  'cosine_distance',
  'cross_entropy',
  'diversity',
  'factor_transfer',
  'flat',
  'flow',
  'guided_kl',
  'hierarchical_context',
  'inter_class',
  'inter_layer',
  'inter_layers',
  'intra_class',
  'intra_layer',
  'kl',
  'kl_of_positions',
  'kl_per_image',
  'margin',
  'masked_cross_entropy',
  'mean_of_teachers',
  'mse',
  'multibox',
  'multibox_kl',
  'multibox_selected',
  'nckd',
  'neuron_selectivity',
  'partial_l2',
  'position_cross_entropies',
  'probabilistic_transfer',
  'relational_angle',
  'relational_distance',
  'shifted_map',
  'similarities',
  'similarity_preserving',
  'smooth_l1',
  'softmax_weighted_sum',
  'standardized',
  'tckd',
  'unit',
  'unit_distance',
  'variational',
]
