"""Losses over the relations between images of a batch: float32 scalars.

Matrices of images by images are small, so they are computed in full float32
even where an accelerator multiplies float32 at a lower precision by default.
"""

import jax
import jax.numpy as jnp

from kd_jax.losses import basic

FULL = jax.lax.Precision.HIGHEST


def similarity_preserving(student: jax.Array, teacher: jax.Array) -> jax.Array:
  """Returns the MSE of the batch's Gram matrices, their rows at length 1.

  Args:
    student: The student's features, which are flattened, [N,...] f32.
    teacher: The teacher's features, [N,...] f32; only N must be equal.

  Returns:
    The mean over the N*N pairs of images, [] f32.

  Source: Tung & Mori, ICCV 2019; `Similarity` of RepDistiller b84f547.
  """

  def gram(x):
    rows = basic.flat(basic.lessened(x))
    return basic.unit(jnp.matmul(rows, rows.T, precision=FULL))

  return basic.mse(gram(student), gram(teacher))


def relational_distance(student: jax.Array, teacher: jax.Array) -> jax.Array:
  """Returns Huber's loss of the distances between images (RKD).

  Each network's distances are divided by their mean.

  Args:
    student: The student's vectors, [N,c] f32.
    teacher: The teacher's vectors, [N,C] f32.

  Returns:
    The mean over the N*N pairs, an image with itself included, [] f32.

  Source: Park et al., CVPR 2019; `RKDLoss` of RepDistiller b84f547.
  """

  def relative(x):
    x = x.astype(jnp.float32)
    scale = jnp.minimum(basic.power_of_2(x, None), 1.0)
    squares = jnp.square(_differences(x * scale)).sum(axis=-1)
    # The originals' 1e-12; beside large vectors it vanishes.
    least = jnp.maximum(1e-12 * jnp.square(scale), 1e-30)
    diagonal = jnp.eye(len(x), dtype=bool)
    distances = jnp.where(diagonal, 0.0, jnp.sqrt(jnp.maximum(squares, least)))
    pairs = max(len(x) * (len(x) - 1), 1)
    mean = distances.sum() / pairs
    # The mean is 0 where the batch is a single image.
    return distances / jnp.where(mean > 0, mean, 1.0)

  return basic.smooth_l1(relative(student), relative(teacher))


def relational_angle(student: jax.Array, teacher: jax.Array) -> jax.Array:
  """Returns Huber's loss of the cosines of angles in image triples (RKD).

  Where the angle's vertex coincides with another image of the triple, the
  cosine is 0 and has no gradient.

  Args:
    student: The student's vectors, [N,c] f32.
    teacher: The teacher's vectors, [N,C] f32.

  Returns:
    The mean over the N*N*N triples, [] f32.

  Source: Park et al., CVPR 2019; `RKDLoss` of RepDistiller b84f547.
  """

  def cosines(x):
    sides = basic.unit(_differences(x))
    return jnp.einsum('aic,ajc->aij', sides, sides, precision=FULL)

  return basic.smooth_l1(cosines(student), cosines(teacher))


def _differences(x: jax.Array) -> jax.Array:
  """Returns x[b] - x[a] at index [a,b], [N,N,C] f32, for `x` [N,C]."""
  x = x.astype(jnp.float32)
  return x[None, :, :] - x[:, None, :]


def probabilistic_transfer(
  student: jax.Array, teacher: jax.Array, epsilon: float = 1e-7
) -> jax.Array:
  """Returns the KL divergence of two networks' neighbour probabilities.

  The probability that image b is the neighbour of image a is the cosine of
  their vectors, mapped to 0..1 and divided by the sum over all b, a included.
  No gradient flows to a vector that is 0, which is our choice.

  Args:
    student: The student's vectors, [N,c] f32.
    teacher: The teacher's vectors, [N,C] f32.
    epsilon: The constant added to lengths and to probabilities.

  Returns:
    The mean over the N*N pairs, [] f32.

  Source: Passalis & Tefas, ECCV 2018, with cosines; `PKT` of
  RepDistiller b84f547.
  """

  def probabilities(x):
    x = basic.softened(x, epsilon)
    similarity = (jnp.matmul(x, x.T, precision=FULL) + 1) / 2
    return similarity / similarity.sum(axis=1, keepdims=True)

  q, p = probabilities(student), probabilities(teacher)
  return (p * jnp.log((p + epsilon) / (q + epsilon))).mean()


def correlation(a: jax.Array, b: jax.Array) -> jax.Array:
  """Returns the product of the embeddings' differences of adjacent images.

  Args:
    a: The embeddings by one network, [N,C] f32.
    b: The embeddings by the other network, [N,C] f32.

  Returns:
    The sum over channels of |a-b| of an image times |a-b| of the next image,
    the mean over the N-1 adjacent pairs of the batch, [] f32; 0 for one image.

  Source: `Correlation` of RepDistiller b84f547, after Peng et al., ICCV 2019.
  """
  differences = jnp.abs(a.astype(jnp.float32) - b.astype(jnp.float32))
  pairs = max(len(a) - 1, 1)
  return (differences[:-1] * differences[1:]).sum() / pairs
