"""Losses over how the images of a batch relate: float32, scalar.

Matrices of images by images are small: they are multiplied in full float32
also where an accelerator's default for float32 is less.
"""

import jax
import jax.numpy as jnp

from kd_jax.losses import basic

FULL = jax.lax.Precision.HIGHEST


def similarity_preserving(student: jax.Array, teacher: jax.Array) -> jax.Array:
  """MSE of two Gram matrices of the batch, their rows at length 1.

  Args:
    student: [N,...], flattened.
    teacher: [N,...]; all but N may differ.

  Source: Tung & Mori, ICCV 2019; `Similarity` of RepDistiller b84f547.
  """

  def gram(x):
    rows = basic.flat(x)
    return basic.unit(jnp.matmul(rows, rows.T, precision=FULL))

  return basic.mse(gram(student), gram(teacher))


def relational_distance(student: jax.Array, teacher: jax.Array) -> jax.Array:
  """Huber's loss of the images' distances, over their own mean.

  Args:
    student: [N,c].
    teacher: [N,C].

  Returns:
    The mean over the N*N pairs, an image with itself included.

  Source: Park et al., CVPR 2019; `RKDLoss` of RepDistiller b84f547.
  """

  def relative(x):
    square = jnp.square(_differences(x)).sum(axis=-1)
    own = jnp.eye(len(x), dtype=bool)
    length = jnp.where(own, 0.0, jnp.sqrt(jnp.maximum(square, 1e-12)))
    pairs = max(len(x) * (len(x) - 1), 1)
    mean = length.sum() / pairs
    return length / jnp.where(mean > 0, mean, 1.0)  # 0 for one image alone

  return basic.smooth_l1(relative(student), relative(teacher))


def relational_angle(student: jax.Array, teacher: jax.Array) -> jax.Array:
  """Huber's loss of the cosines of the angles between three images.

  Args:
    student: [N,c].
    teacher: [N,C].

  Returns:
    The mean over the N*N*N triples; where two of the three coincide, the
    cosine is 0 and has no gradient.

  Source: Park et al., CVPR 2019; `RKDLoss` of RepDistiller b84f547.
  """

  def cosines(x):
    sides = basic.unit(_differences(x))
    return jnp.einsum('aic,ajc->aij', sides, sides, precision=FULL)

  return basic.smooth_l1(cosines(student), cosines(teacher))


def _differences(x: jax.Array) -> jax.Array:
  """[N,N,C]: at a, b what leads from x[a] to x[b], for x [N,C]."""
  x = x.astype(jnp.float32)
  return x[None, :, :] - x[:, None, :]


def probabilistic_transfer(
  student: jax.Array, teacher: jax.Array, epsilon: float = 1e-7
) -> jax.Array:
  """KL of the probabilities that an image has another as its neighbour.

  They are the cosines of the vectors, moved to 0..1, over their row's sum, an
  image with itself included.

  Args:
    student: [N,c].
    teacher: [N,C].
    epsilon: added to lengths and to probabilities.

  Returns:
    The mean over the N*N pairs.

  Source: Passalis & Tefas, ECCV 2018, with cosines; `PKT` of
  RepDistiller b84f547. Where a vector is 0, no gradient flows: our choice.
  """

  def probabilities(x):
    x = x.astype(jnp.float32)
    square = jnp.square(x).sum(axis=-1, keepdims=True)
    dead = square == 0
    length = jnp.sqrt(jnp.where(dead, 1.0, square))
    x = jnp.where(dead, 0.0, x / (length + epsilon))
    near = (jnp.matmul(x, x.T, precision=FULL) + 1) / 2
    return near / near.sum(axis=1, keepdims=True)

  q, p = probabilities(student), probabilities(teacher)
  return (p * jnp.log((p + epsilon) / (q + epsilon))).mean()


def correlation(a: jax.Array, b: jax.Array) -> jax.Array:
  """Products of how two embeddings differ, for images beside each other.

  Args:
    a: [N,C].
    b: [N,C].

  Returns:
    The sum over C of |a-b| of an image times that of the next one, mean over
    the N-1 pairs of neighbours in the batch; 0 for one image.

  Source: `Correlation` of RepDistiller b84f547, after Peng et al., ICCV 2019.
  """
  apart = jnp.abs(a.astype(jnp.float32) - b.astype(jnp.float32))
  pairs = max(len(a) - 1, 1)
  return (apart[:-1] * apart[1:]).sum() / pairs
