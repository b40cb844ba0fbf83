"""The variational bound on the information that two maps share."""

import jax
import jax.numpy as jnp


def variational(
  mean: jax.Array, target: jax.Array, variance: jax.Array
) -> jax.Array:
  """How unlikely `target` is under a normal distribution for each channel.

  The negative log-likelihood without its constant log(2 pi) / 2.

  Args:
    mean: [N,H,W,C], what the student's features predict.
    target: [N,H,W,C].
    variance: [C], positive.

  Returns:
    The mean over every element.

  Source: Ahn et al., CVPR 2019, equation 4; `VIDLoss` of RepDistiller b84f547.
  """
  spread = variance.astype(jnp.float32)[None, None, None, :]
  square = jnp.square(mean.astype(jnp.float32) - target.astype(jnp.float32))
  return (square / spread + jnp.log(spread)).mean() / 2
