"""Batch normalisation with PyTorch's buffers, and its folding."""

import functools
from typing import Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax import errors
from kd_jax.models.layers import conv

# The collection of folded kernels and offsets: a convolution and the BatchNorm
# after it with running statistics are one convolution, whose kernel depends on
# their variables alone. It is written where it is mutable, and read where the
# variables hold it.
FOLDED = 'folded'


BatchNormMode = Literal['auto', 'batch', 'running']


def check_mode(mode: str) -> None:
  """Raises UsageError if `mode` is not a `BatchNormMode`."""
  if mode not in get_args(BatchNormMode):
    raise errors.unknown('batch_norm mode', mode, get_args(BatchNormMode))


class BatchNorm(nn.Module):
  """Batch normalisation over all axes but the last, with torch's buffers.

  It normalises by the biased variance of the batch, and stores the unbiased
  variance, N/(N-1) times as large, for evaluation; flax.linen's BatchNorm
  stores the biased one. Under jit with a sharded batch the statistics are those
  of the global batch. Statistics and scaling are float32, folded kernels and
  offsets have the convolution's dtype, and the result has the input's dtype.

  Attributes:
    mode: 'auto' uses batch statistics in training and running statistics
      otherwise; 'batch' and 'running' always use those. Running statistics are
      updated where batch statistics are used and 'batch_stats' is mutable.
    group_size: The images that share statistics; 0 is the whole batch. Running
      statistics are averaged over the groups. A batch of fewer images is one
      group.
    momentum: The share of the running statistics that a step keeps (1 minus
      torch's momentum).
    epsilon: Added to the variance.
    shift: What is taken from all values before they are squared and summed.
      'batch' is one position of each group, so that the variance is exact to
      rounding, however large the mean. 'running' is the running mean: devices
      that share a batch exchange nothing for it, but until it is near the mean,
      the variance is off by about 1e-7 times the squared ratio of the mean to
      the deviation.
  """

  mode: BatchNormMode = 'auto'
  group_size: int = 0
  momentum: float = 0.9
  epsilon: float = 1e-5
  shift: Literal['batch', 'running'] = 'batch'

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    *,
    train: bool,
    after: conv.Conv | None = None,
    moves: bool = True,
  ) -> jax.Array:
    """Normalises x [N,..,C].

    Args:
      x: The array to normalise, [N,..,C].
      train: Whether the network trains; see `mode`.
      after: A convolution of x [N,H,W,I], whose result is normalised instead of
        x. With running statistics the two can be folded into one convolution;
        see `FOLDED`.
      moves: Whether batch statistics move the running ones; False for a second
        map that the layer normalises in the same step.

    Returns:
      [N,..,C], in the dtype of what is normalised.

    Raises:
      UsageError: group_size does not divide N.
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
      size = x.shape[0]  # a batch of any size initialises
    if x.shape[0] % size:
      raise errors.UsageError(
        f'bn_group_size={size} does not divide the batch of {x.shape[0]}'
      )
    rows = x.astype(jnp.float32).reshape(-1, channels)
    count = size * x[0, ..., 0].size
    # A padded convolution's values at the border may be far from the others.
    middle = _middle(x.shape[1:-1])
    parts = _parts(size, count)

    def normalise_group(rows):
      shift = mean.value if self.shift == 'running' else rows[middle]
      return normalise(rows, scale, bias, shift, self.epsilon, parts)

    if count == len(rows):
      y, new_mean, new_var = normalise_group(rows)
    else:
      y, means, variances = jax.vmap(normalise_group)(
        rows.reshape(-1, count, channels)
      )
      new_mean, new_var = means.mean(axis=0), variances.mean(axis=0)
    moves = moves and self.is_mutable_collection('batch_stats')
    if moves and not self.is_initializing():
      unbiased = new_var * (count / max(count - 1, 1))
      momentum = self.momentum
      mean.value = momentum * mean.value + (1 - momentum) * new_mean
      var.value = momentum * var.value + (1 - momentum) * unbiased
    return y.reshape(x.shape).astype(x.dtype)

  def _folds(self) -> bool:
    writes = self.is_mutable_collection(FOLDED) and not self.is_initializing()
    return writes or self.has_variable(FOLDED, 'kernel')

  def _folded(
    self, x: jax.Array, after: conv.Conv, factor: jax.Array, offset: jax.Array
  ) -> jax.Array:
    """Returns the convolution by the scaled kernel, plus the offset."""
    if self.has_variable(FOLDED, 'kernel'):
      kernel: jax.Array = self.get_variable(FOLDED, 'kernel')
      offset = self.get_variable(FOLDED, 'offset')
    else:
      scaled: jax.Array = after.get_variable('params', 'kernel')
      scaled = scaled * factor[None, None, None, :]
      kernel = scaled.astype(after.dtype)
      if after.bias_init is not None:
        offset = offset + after.get_variable('params', 'bias') * factor
      # cuDNN fuses the addition only where the offset has the convolution's
      # dtype, also in bfloat16.
      offset = offset.astype(after.dtype)
      self.put_variable(FOLDED, 'kernel', kernel)
      self.put_variable(FOLDED, 'offset', offset)
    return after.convolve(x, kernel) + offset[None, None, None, :]


def _middle(sizes: tuple[int, ...]) -> int:
  """Returns the number of the position in the middle of an array of sizes."""
  number = 0
  for size in sizes:
    number = number * size + size // 2
  return number


def _parts(images: int, count: int) -> int:
  """Returns in how many parts a GPU sums the values of a batch.

  Every image has equally many parts, so that devices that share a batch add up
  their own. They are about as many as the values of a part.

  Args:
    images: N, the images of the batch.
    count: M, the values of each channel; N divides it.
  """
  parts = images
  while parts**2 < count and count % (2 * parts) == 0:
    parts *= 2
  return parts


def conv_bn(
  x: jax.Array, convolution: nn.Module, norm: nn.Module, *, train: bool
) -> jax.Array:
  """Returns the normalised convolution of x.

  With running statistics the two can be folded into one; see `FOLDED`.

  Args:
    x: The images or feature maps, [N,H,W,I].
    convolution: The `Conv`.
    norm: The `BatchNorm` of the convolution's result.
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
  parts: int = 1,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Normalises a batch by its own statistics.

  The gradient is written out: it stores x alone and reads it once. The gradient
  that JAX derives took XLA:CPU 10 times as long.

  Args:
    x: The values, [M,C] f32.
    scale: [C] f32.
    bias: [C] f32.
    shift: A value near the mean, [C] f32. It avoids cancellation where a large
      mean meets a small variance, and does not change the result otherwise.
    epsilon: Added to the variance.
    parts: In how many parts of successive values a GPU takes the sums; it
      divides M.

  Returns:
    The normalised values [M,C] f32, and the mean and the biased variance [C]
    f32, through which no gradient flows.
  """
  y, mean, var = _normalise(
    x, scale, bias, jax.lax.stop_gradient(shift), epsilon, parts
  )
  return y, jax.lax.stop_gradient(mean), jax.lax.stop_gradient(var)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _normalise(x, scale, bias, shift, epsilon, parts):
  return _normalised(x, scale, bias, shift, epsilon, parts)[0]


def _sums(x, y, parts):
  """Returns the sums of two arrays [M,C] over M.

  An NVIDIA GPU sums many values in two kernels, the second one over the sums of
  parts. XLA makes two of the second, unless the parts of both arrays are one
  array. On a CPU the parts cost time.
  """

  def partial(values):
    return values.reshape(parts, -1, values.shape[-1]).sum(axis=1)

  def in_parts(x, y):
    totals = jnp.stack([partial(x), partial(y)]).sum(axis=1)
    return totals[0], totals[1]

  def at_once(x, y):
    return x.sum(axis=0), y.sum(axis=0)

  return jax.lax.platform_dependent(x, y, cuda=in_parts, default=at_once)


def _normalised(x, scale, bias, shift, epsilon, parts):
  centred = x - shift[None, :]
  total, squares = _sums(centred, jnp.square(centred), parts)
  mean, square = total / len(x), squares / len(x)
  var = jnp.maximum(square - jnp.square(mean), 0.0)
  inverse = jax.lax.rsqrt(var + epsilon)
  y = (centred - mean[None, :]) * (scale * inverse)[None, :] + bias[None, :]
  return (y, mean + shift, var), (x, scale, mean + shift, inverse)


def _normalise_gradients(epsilon, parts, given, gradients):
  del epsilon
  x, scale, mean, inverse = given
  y_grad, _, _ = gradients
  normalised = (x - mean[None, :]) * inverse[None, :]
  bias_grad, scale_grad = _sums(y_grad, y_grad * normalised, parts)
  projected = bias_grad[None, :] + normalised * scale_grad[None, :]
  x_grad = (scale * inverse)[None, :] * (y_grad - projected / len(x))
  return x_grad, scale_grad, bias_grad, jnp.zeros_like(mean)


_normalise.defvjp(_normalised, _normalise_gradients)
