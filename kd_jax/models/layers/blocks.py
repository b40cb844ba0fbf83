"""Parts of residual blocks that several families of networks share."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax.models.layers import conv

# N(0, 0.02^2). The originals cut it off at +-2, which is 100 deviations.
token_init = nn.initializers.normal(0.02)


def token_linear(features: int, dtype: jnp.dtype, name: str) -> conv.Linear:
  """Returns a dense layer that begins as N(0, 0.02^2), with a bias of zeros.

  Args:
    features: The number of outputs.
    dtype: The dtype of the computation.
    name: The name of the layer.
  """
  return conv.Linear(
    features, dtype, token_init, nn.initializers.zeros, name=name
  )


def mlp(x: jax.Array, expansion: int, dtype: jnp.dtype) -> jax.Array:
  """Returns the MLP of a transformer's block, as layers of the caller.

  Args:
    x: The tokens, [...,C].
    expansion: The factor of the channels between its layers.
    dtype: The dtype of the computation.

  Returns:
    [...,C] in `dtype`, by the dense layers 'hidden' and 'out'.
  """
  y = token_linear(expansion * x.shape[-1], dtype, 'hidden')(x)
  y = nn.gelu(y, approximate=False)
  return token_linear(x.shape[-1], dtype, 'out')(y)


def layer_norm(name: str, epsilon: float = 1e-6) -> nn.LayerNorm:
  """Returns a LayerNorm over the channels, f32.

  Args:
    name: The name of the layer.
    epsilon: Added to the variance.
  """
  return nn.LayerNorm(
    epsilon=epsilon, dtype=jnp.float32, use_fast_variance=False, name=name
  )


def drop_path(x: jax.Array, rate: float, *, train: bool) -> jax.Array:
  """Returns a branch of a residual block after stochastic depth.

  In training the branch of an image is 0 with the probability `rate`, and
  divided by 1 - rate otherwise. It is called in a compact method.

  Args:
    x: The branch's result, [N,...].
    rate: The probability.
    train: Whether the network trains.

  Returns:
    [N,...], in x's dtype.

  Source: Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016.
  """
  if not rate:
    return x
  axes = tuple(range(1, x.ndim))
  return nn.Dropout(rate, broadcast_dims=axes, deterministic=not train)(x)


def rates(most: float, depth: int) -> list[float]:
  """Returns stochastic depth's rate of each block, from 0 linearly to `most`.

  Args:
    most: The rate of the last block.
    depth: The number of blocks.
  """
  return [most * i / max(depth - 1, 1) for i in range(depth)]


class SqueezeExcitation(nn.Module):
  """Scales the channels of a map by what an MLP makes of their means.

  Attributes:
    features: The channels between the MLP's two layers.
    act: The activation between them.
    gate: The function that gives the factors, such as a sigmoid.
    dtype: The dtype of the computation.
    bias_init: Initialises the biases; None is torch's default.
  """

  features: int
  act: Callable[[jax.Array], jax.Array]
  gate: Callable[[jax.Array], jax.Array]
  dtype: jnp.dtype
  bias_init: nn.initializers.Initializer | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns [N,H,W,C] for x [N,H,W,C]."""

    def linear(features: int, name: str) -> conv.Linear:
      return conv.Linear(
        features, self.dtype, conv.conv_init, self.bias_init, name=name
      )

    means = x.astype(jnp.float32).mean(axis=(1, 2))
    y = self.act(linear(self.features, 'reduce')(means))
    factors = self.gate(linear(x.shape[-1], 'expand')(y))
    return x * factors[:, None, None, :]
