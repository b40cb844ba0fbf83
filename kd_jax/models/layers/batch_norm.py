"""Batch normalisation with PyTorch's buffers, and its folding."""

import functools
from typing import Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax import errors
from kd_jax.models.layers import conv

# A collection: what a BatchNorm and the convolution before it make of their
# variables alone. It is made where it is mutable, and read where it is given.
FOLDED = 'folded'


BatchNormMode = Literal['auto', 'batch', 'running']


def check_mode(mode: str) -> None:
  """Raises UsageError where `mode` is no `BatchNormMode`."""
  if mode not in get_args(BatchNormMode):
    raise errors.unknown('batch_norm mode', mode, get_args(BatchNormMode))


class BatchNorm(nn.Module):
  """Batch normalisation over all axes but the last, with torch's buffers.

  It normalises with the biased variance of the batch and keeps the unbiased
  one, N/(N-1) times as large, for evaluation; flax.linen's keeps the biased
  one. Under jit with a sharded batch the statistics are those of the global
  batch. Statistics and scaling are float32 (what is folded has the dtype of
  its convolution); the result has the dtype of what is normalised.

  Attributes:
    mode: 'auto' takes batch statistics in training and running ones
      otherwise; 'batch' and 'running' always take theirs. Running statistics
      move where batch statistics are used and 'batch_stats' is mutable.
    group_size: images that share statistics, 0 for the whole batch; running
      statistics are averaged over the groups. Fewer images are one group.
    momentum: what the running statistics keep each step (1 minus torch's).
    epsilon: added to the variance.
  """

  mode: BatchNormMode = 'auto'
  group_size: int = 0
  momentum: float = 0.9
  epsilon: float = 1e-5

  @nn.compact
  def __call__(
    self, x: jax.Array, *, train: bool, after: conv.Conv | None = None
  ) -> jax.Array:
    """Normalises x [N,..,C].

    Args:
      x: what is normalised.
      train: see `mode`.
      after: a convolution of x [N,H,W,I] whose result is normalised instead.
        By running statistics the two can be folded into one: see `FOLDED`.

    Raises:
      UsageError: where group_size does not divide N.
    """
    channels = x.shape[-1] if after is None else after.features
    scale = self.param('scale', nn.initializers.ones, (channels,))
    bias = self.param('bias', nn.initializers.zeros, (channels,))
    zeros, ones = jnp.zeros, jnp.ones
    mean = self.variable('batch_stats', 'mean', zeros, (channels,))
    var = self.variable('batch_stats', 'var', ones, (channels,))
    use_batch = train if self.mode == 'auto' else self.mode == 'batch'
    if not use_batch:
      factor = scale * jax.lax.rsqrt(var.value + self.epsilon)
      offset = bias - mean.value * factor
      if after is not None and self._folds():
        return self._folded(x, after, factor, offset)
    if after is not None:
      x = after(x)
    if not use_batch:
      shape = (1,) * (x.ndim - 1) + (channels,)
      y = x.astype(jnp.float32) * factor.reshape(shape) + offset.reshape(shape)
      return y.astype(x.dtype)

    size = min(self.group_size or x.shape[0], x.shape[0])
    if self.is_initializing():
      size = x.shape[0]  # any batch will do
    if x.shape[0] % size:
      raise errors.UsageError(
        f'bn_group_size={size} does not divide the batch of {x.shape[0]}'
      )
    rows = x.astype(jnp.float32).reshape(-1, channels)
    count = size * x[0, ..., 0].size
    one = functools.partial(
      normalise,
      scale=scale,
      bias=bias,
      shift=mean.value,
      epsilon=self.epsilon,
    )
    if count == len(rows):
      y, new_mean, new_var = one(rows)
    else:
      y, means, variances = jax.vmap(one)(rows.reshape(-1, count, channels))
      new_mean, new_var = means.mean(axis=0), variances.mean(axis=0)
    if self.is_mutable_collection('batch_stats') and not self.is_initializing():
      unbiased = new_var * (count / max(count - 1, 1))
      keep = self.momentum
      mean.value = keep * mean.value + (1 - keep) * new_mean
      var.value = keep * var.value + (1 - keep) * unbiased
    return y.reshape(x.shape).astype(x.dtype)

  def _folds(self) -> bool:
    made = self.is_mutable_collection(FOLDED) and not self.is_initializing()
    return made or self.has_variable(FOLDED, 'kernel')

  def _folded(
    self, x: jax.Array, after: conv.Conv, factor: jax.Array, offset: jax.Array
  ) -> jax.Array:
    """The convolution by a scaled kernel, and what is added to it."""
    if self.has_variable(FOLDED, 'kernel'):
      kernel: jax.Array = self.get_variable(FOLDED, 'kernel')
      offset = self.get_variable(FOLDED, 'offset')
    else:
      scaled: jax.Array = after.get_variable('params', 'kernel')
      scaled = scaled * factor[None, None, None, :]
      kernel = scaled.astype(after.dtype)
      if after.bias_init is not None:
        offset = offset + after.get_variable('params', 'bias') * factor
      # In bfloat16 too: cuDNN adds nothing of another dtype as it convolves.
      offset = offset.astype(after.dtype)
      self.put_variable(FOLDED, 'kernel', kernel)
      self.put_variable(FOLDED, 'offset', offset)
    return after.convolve(x, kernel) + offset[None, None, None, :]


def conv_bn(
  x: jax.Array, convolution: nn.Module, norm: nn.Module, *, train: bool
) -> jax.Array:
  """Returns the normalised convolution of x.

  By running statistics the two can be folded into one: see `FOLDED`.

  Args:
    x: The images or maps, [N,H,W,I].
    convolution: The `Conv`.
    norm: The `BatchNorm` of what it returns.
    train: Whether the network trains; see `BatchNorm.mode`.

  Returns:
    [N,h,w,O], in the convolution's dtype.
  """
  return norm(x, train=train, after=convolution)


def normalise(
  x: jax.Array,
  scale: jax.Array,
  bias: jax.Array,
  shift: jax.Array,
  epsilon: float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Batch normalisation by the batch's own statistics.

  Its gradient is written out: it keeps x alone and reads it once, where what
  JAX derives took XLA:CPU 10 times as long.

  Args:
    x: [M,C] f32.
    scale: [C] f32.
    bias: [C] f32.
    shift: [C] f32, near the mean: a large mean beside a small variance does
      not cancel then. It changes nothing else.
    epsilon: added to the variance.

  Returns:
    [M,C], and the mean and the biased variance [C], not differentiated.
  """
  y, mean, var = _normalise(
    x, scale, bias, jax.lax.stop_gradient(shift), epsilon
  )
  return y, jax.lax.stop_gradient(mean), jax.lax.stop_gradient(var)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _normalise(x, scale, bias, shift, epsilon):
  return _normalised(x, scale, bias, shift, epsilon)[0]


def _normalised(x, scale, bias, shift, epsilon):
  # One pass over x.
  centred = x - shift[None, :]
  mean, square = centred.mean(axis=0), jnp.square(centred).mean(axis=0)
  var = jnp.maximum(square - jnp.square(mean), 0.0)
  inverse = jax.lax.rsqrt(var + epsilon)
  y = (centred - mean[None, :]) * (scale * inverse)[None, :] + bias[None, :]
  return (y, mean + shift, var), (x, scale, mean + shift, inverse)


def _normalise_gradients(epsilon, given, gradients):
  del epsilon
  x, scale, mean, inverse = given
  of_y, _, _ = gradients
  standard = (x - mean[None, :]) * inverse[None, :]
  of_bias, of_scale = of_y.sum(axis=0), (of_y * standard).sum(axis=0)
  common = of_bias[None, :] + standard * of_scale[None, :]
  of_x = (scale * inverse)[None, :] * (of_y - common / len(x))
  return of_x, of_scale, of_bias, jnp.zeros_like(mean)


_normalise.defvjp(_normalised, _normalise_gradients)
