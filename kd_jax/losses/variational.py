"""The variational bound on the mutual information of two feature maps."""

import jax
import jax.numpy as jnp


def variational(
  mean: jax.Array, target: jax.Array, variance: jax.Array
) -> jax.Array:
  """Returns the negative log-likelihood of a map under normal distributions.

  The constant log(2 pi) / 2 is left out.

  Args:
    mean: The mean, predicted from the student's features, [N,H,W,C] f32.
    target: The map to be predicted, [N,H,W,C] f32.
    variance: The positive variance of each channel, [C] f32.

  Returns:
    The mean over every element, [] f32.

  Source: Ahn et al., CVPR 2019, equation 4; `VIDLoss` of RepDistiller b84f547.
  """
  variances = variance.astype(jnp.float32)[None, None, None, :]
  squares = jnp.square(mean.astype(jnp.float32) - target.astype(jnp.float32))
  return (squares / variances + jnp.log(variances)).mean() / 2
