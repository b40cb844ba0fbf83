"""From the student's features to the teacher's classifier (SimKD, PICS)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax import errors, losses
from kd_jax.models import layers, read_params


class Projector(nn.Module):
  """A bottleneck of three convolutions, each with BatchNorm and ReLU.

  1x1 to features/factor channels, 3x3, 1x1 to `features`; no biases.

  Attributes:
    factor: by which the inner width is smaller than the outer one.
    dtype: what it computes in.
    bn_group_size: see `layers.BatchNorm.group_size`.

  Source: Chen et al., CVPR 2022; `SimKD` of SimKD 2b389c3 (models/util.py).
  """

  factor: int
  dtype: jnp.dtype = jnp.float32
  bn_group_size: int = 0

  @nn.compact
  def __call__(self, x: jax.Array, features: int, *, train: bool) -> jax.Array:
    """Maps [N,h,w,c] to [N,h,w,features].

    Raises:
      UsageError: where the factor does not divide `features`.
    """
    if features % self.factor:
      raise errors.UsageError(
        f'config.method_args.factor={self.factor} does not divide the '
        f"{features} channels of the teacher's map"
      )
    inner = features // self.factor
    plan = ((inner, 1), (inner, 3), (features, 1))
    for i, (width, kernel) in enumerate(plan, 1):
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
  """Projectors, integrated by their mean, before the teacher's classifier.

  Attributes:
    count: projectors, each with its own initialisation.
    factor: see `Projector.factor`.
    dtype: see `Projector.dtype`.
    bn_group_size: see `Projector.bn_group_size`.
  """

  count: int
  factor: int
  dtype: jnp.dtype = jnp.float32
  bn_group_size: int = 0

  @nn.compact
  def __call__(
    self, student: jax.Array, teacher: jax.Array, params: dict, *, train: bool
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The projected map, its target and the logits.

    Args:
      student: map [N,H,W,C], after its ReLU.
      teacher: map [N,h,w,c], after its ReLU; only its shape matters to the
        projected map and to the logits.
      params: the teacher's.
      train: the mode of the projectors' BatchNorm.

    Returns:
      [N,h',w',c] f32 twice, at the smaller of both sizes, and [N,K] f32.
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
