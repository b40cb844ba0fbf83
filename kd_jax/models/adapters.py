"""Pieces of methods that two or more of them share."""

import flax.linen as nn
import jax

from kd_jax.models import layers


class Connector(nn.Module):
  """1x1 convolution without bias, then BatchNorm on batch statistics.

  Source: `build_feature_connector` of overhaul-distillation 76344a8.
  """

  @nn.compact
  def __call__(self, x: jax.Array, features: int) -> jax.Array:
    """Maps [N,h,w,c] to [N,h,w,features]."""
    x = layers.conv(features, 1, name='conv')(x)
    return layers.BatchNorm(name='bn')(x, train=True)
