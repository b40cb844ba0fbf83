"""Projectors from the student's features to the teacher's classifier.

SimKD and PICS use them.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax import errors, losses
from kd_jax.models import layers, read_params


class Projector(nn.Module):
  """A bottleneck of three convolutions, each with BatchNorm and ReLU.

  The convolutions have no biases: a 1x1 to features/factor channels, a 3x3 of
  that width, and a 1x1 to `features` channels.

  Attributes:
    factor: The factor by which the inner width is smaller than the outer.
    dtype: The dtype in which the projector computes.
    bn_group_size: See `layers.BatchNorm.group_size`.

  Source: Chen et al., CVPR 2022; `SimKD` of SimKD 2b389c3 (models/util.py).
  """

  factor: int
  dtype: jnp.dtype = jnp.float32
  bn_group_size: int = 0

  @nn.compact
  def __call__(self, x: jax.Array, features: int, *, train: bool) -> jax.Array:
    """Returns the projected map.

    Args:
      x: The student's map, [N,h,w,c] f32.
      features: The channels of the teacher's map.
      train: Whether BatchNorm uses batch statistics.

    Returns:
      The projected map, [N,h,w,features] in `dtype`.

    Raises:
      UsageError: `factor` does not divide `features`.
    """
    if features % self.factor:
      raise errors.ArgumentError(
        f'factor={self.factor} does not divide the {features} channels of the '
        "teacher's map"
      )
    inner = features // self.factor
    convolutions = ((inner, 1), (inner, 3), (features, 1))
    for i, (width, kernel) in enumerate(convolutions, 1):
      x = nn.Conv(
        width,
        (kernel, kernel),
        padding=((kernel // 2, kernel // 2),) * 2,
        use_bias=False,
        dtype=self.dtype,
        kernel_init=layers.torch_init,
        name=f'conv{i}',
      )(x)
      norm = layers.BatchNorm(group_size=self.bn_group_size, name=f'bn{i}')
      x = nn.relu(norm(x, train=train))
    return x


class ReusedClassifier(nn.Module):
  """The teacher's classifier on the mean output of several projectors.

  Attributes:
    count: The number of projectors; their initial values differ.
    factor: See `Projector.factor`.
    dtype: See `Projector.dtype`.
    bn_group_size: See `Projector.bn_group_size`.
  """

  count: int
  factor: int
  dtype: jnp.dtype = jnp.float32
  bn_group_size: int = 0

  @nn.compact
  def __call__(
    self, student: jax.Array, teacher: jax.Array, params: dict, *, train: bool
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the projected map, its target and the logits.

    Args:
      student: The student's map after its ReLU, [N,H,W,C] f32.
      teacher: The teacher's map after its ReLU, [N,h,w,c] f32. The projected
        map and the logits depend only on its shape.
      params: The teacher's parameters.
      train: Whether the projectors' BatchNorm uses batch statistics.

    Returns:
      The projected map and its target, both [N,min(h,H),min(w,W),c] f32, and
      the logits, [N,K] f32.
    """
    student, target = losses.aligned(student, teacher)
    maps = [
      Projector(
        self.factor, self.dtype, self.bn_group_size, name=f'projector{i}'
      )(student, target.shape[-1], train=train).astype(jnp.float32)
      for i in range(self.count)
    ]
    projected = jnp.stack(maps).mean(axis=0)
    frozen = jax.lax.stop_gradient(params)
    logits = read_params.head(frozen, projected.mean(axis=(1, 2)))
    return projected, target, logits
