"""Distances between arrays: float32, scalar, no parameters, no config.

Every one is a pure function that a notebook can call: `losses.kl(a, b, 4.0)`.
"""

from kd_jax.losses.basic import (
  aligned,
  avg_pool_to,
  flat,
  mse,
  smooth_l1,
  softmax_weighted_sum,
  unit,
)
from kd_jax.losses.logits import (
  classes,
  cross_entropy,
  guided_kl,
  kl,
  kl_per_image,
)
from kd_jax.losses.maps import (
  inter_layer,
  inter_layers,
  intra_layer,
  margin,
  partial_l2,
)

__all__ = [
  'aligned',
  'avg_pool_to',
  'classes',
  'cross_entropy',
  'flat',
  'guided_kl',
  'inter_layer',
  'inter_layers',
  'intra_layer',
  'kl',
  'kl_per_image',
  'margin',
  'mse',
  'partial_l2',
  'smooth_l1',
  'softmax_weighted_sum',
  'unit',
]
