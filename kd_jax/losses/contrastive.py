"""Noise-contrastive estimation against a memory of embeddings."""

import jax
import jax.numpy as jnp


def similarities(
  embedding: jax.Array, bank: jax.Array, index: jax.Array, temperature: float
) -> jax.Array:
  """Returns exp(embedding . bank[index] / temperature).

  The products with all M rows of the bank are computed, then those of `index`
  are picked: at any useful k, gathering k rows of width D for each image would
  move more data than M products.

  Args:
    embedding: The images' embeddings, each of length 1, [N,D] f32.
    bank: The memory of embeddings, [M,D] f32; no gradient flows to it.
    index: The rows of the bank to compare each image with, [N,k] i32.
    temperature: The temperature tau, by which the products are divided.

  Returns:
    The similarities, [N,k] f32.

  Source: Tian et al., ICLR 2020; `ContrastMemory` of RepDistiller b84f547.
  """
  bank = jax.lax.stop_gradient(bank).astype(jnp.float32)
  products = jnp.matmul(
    embedding.astype(jnp.float32), bank.T, precision=jax.lax.Precision.HIGHEST
  )
  picked = jnp.take_along_axis(products, index, axis=1)
  return jnp.exp(picked / temperature)


def contrastive(
  scores: jax.Array, images: int, epsilon: float = 1e-7
) -> jax.Array:
  """Returns the noise-contrastive loss of one positive and K negatives.

  Args:
    scores: Positive scores, the positive pair's in column 0, then those of the
      K negatives, [N,K+1] f32. A score estimates the probability of an entry
      among all images; the noise has the probability 1/images.
    images: M, the number of images from which the negatives are drawn.
    epsilon: The constant added to the denominators.

  Returns:
    -log h(positive) - sum over negatives of log(1 - h(negative)), where
    h = score / (score + K/M), the mean over the batch, [] f32.

  Source: Tian et al., ICLR 2020, equation 18; `ContrastLoss` of RepDistiller
  b84f547.
  """
  noise = (scores.shape[1] - 1) / images
  positive, negatives = scores[:, 0], scores[:, 1:]
  log_hit = jnp.log(positive / (positive + noise + epsilon))
  log_rejected = jnp.log(noise / (negatives + noise + epsilon))
  return -(log_hit + log_rejected.sum(axis=1)).mean()
