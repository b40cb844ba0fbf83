"""Stochastic depth: residual branches that are left out in training."""

import flax.linen as nn
import jax
import jax.numpy as jnp


def drop_path(
  module: nn.Module, branch: jax.Array, rate: float, *, train: bool
) -> jax.Array:
  """Returns a residual branch, which some images of a batch go without.

  An image that keeps it has it divided by the probability of keeping it, so
  that the mean is the branch. Nothing changes outside training.

  Args:
    module: The module whose random key 'dropout' is drawn from.
    branch: The branch before the sum, [N,H,W,C].
    rate: The probability that an image goes without, less than 1.
    train: Whether the network trains.

  Source: Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016;
  torchvision's `stochastic_depth` with the mode 'row', and timm's DropPath.
  """
  if not (train and rate):
    return branch
  key, shape = module.make_rng('dropout'), (len(branch), 1, 1, 1)
  kept = jax.random.bernoulli(key, 1 - rate, shape)
  scale = jnp.asarray(1 / (1 - rate), branch.dtype)
  return jnp.where(kept, branch * scale, jnp.zeros((), branch.dtype))


def drop_path_rates(most: float, blocks: int) -> list[float]:
  """Returns the rate of every block, which grows linearly from 0 to `most`.

  Args:
    most: The rate of the last block.
    blocks: The number of blocks.
  """
  return [most * i / max(1, blocks - 1) for i in range(blocks)]
