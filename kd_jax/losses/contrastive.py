"""Noise-contrastive estimation against a memory of embeddings."""

import jax
import jax.numpy as jnp


def similarities(
  embedding: jax.Array, bank: jax.Array, index: jax.Array, temperature: float
) -> jax.Array:
  """exp(embedding . bank[index] / temperature), [N,k] f32.

  All products with the bank are computed and those of `index` picked: k rows of
  D for each image would be more to move than M products, at any useful k.

  Args:
    embedding: [N,D], of length 1.
    bank: [M,D]; no gradient flows to it.
    index: [N,k] i32, rows of the bank.
    temperature: tau.

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
  """How badly scores tell the image's own entry from K drawn ones.

  Args:
    scores: [N,K+1], positive, the image's own first: estimates of its
      probability among all images, relative to 1/images of the noise.
    images: M, from which the K are drawn.
    epsilon: added to the denominators.

  Returns:
    -log h(own) - sum over K of log(1 - h), where h = score / (score + K/M):
    mean over the batch.

  Source: Tian et al., ICLR 2020, equation 18; `ContrastLoss` of RepDistiller
  b84f547.
  """
  noise = (scores.shape[1] - 1) / images
  own, drawn = scores[:, 0], scores[:, 1:]
  hit = jnp.log(own / (own + noise + epsilon))
  passed = jnp.log(noise / (drawn + noise + epsilon))
  return -(hit + passed.sum(axis=1)).mean()
