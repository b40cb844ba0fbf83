"""The layers all networks are made of, with PyTorch's numerics."""

from collections.abc import Callable
import functools
from typing import Any, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax import errors
from kd_jax.features import tap

# A collection: what a BatchNorm and the convolution before it make of their
# variables alone. It is made where it is mutable, and read where it is given.
FOLDED = 'folded'
BatchNormMode = Literal['auto', 'batch', 'running']
_DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')


def check_mode(mode: str) -> None:
  """Raises UsageError where `mode` is no `BatchNormMode`."""
  if mode not in get_args(BatchNormMode):
    raise errors.unknown('batch_norm mode', mode, get_args(BatchNormMode))


# N(0, 2 / (k*k*C_out)): torch's `kaiming_normal_(mode='fan_out')`.
conv_init = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')
# U(-1/sqrt(fan_in), 1/sqrt(fan_in)): the default of torch's Conv2d and Linear.
torch_init = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')
# N(0, 0.01^2): the classifiers of VGG and MobileNetV2.
small_init = nn.initializers.normal(0.01)


def torch_bias_init(fan_in: int) -> nn.initializers.Initializer:
  """U(-1/sqrt(fan_in), 1/sqrt(fan_in)), for the bias beside `torch_init`."""

  def init(key, shape, dtype=jnp.float32):
    bound = fan_in**-0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init


class Conv(nn.Module):
  """A square convolution that pads k//2 on every side, as torch's.

  Flax's 'SAME' pads (0, 1) where the stride is 2; torch pads (1, 1).

  Attributes:
    features: output channels.
    kernel_size: of both sides.
    stride: of both sides.
    groups: of channels that see each other.
    dtype: what it computes in.
    kernel_init: of the kernel [k,k,I/groups,O].
    bias_init: of the bias [O]; without it there is none.
  """

  features: int
  kernel_size: int
  stride: int = 1
  groups: int = 1
  dtype: jnp.dtype = jnp.float32
  kernel_init: nn.initializers.Initializer = conv_init
  bias_init: nn.initializers.Initializer | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [N,H,W,I] to [N,h,w,O] in `dtype`."""
    side = self.kernel_size
    shape = (side, side, x.shape[-1] // self.groups, self.features)
    y = self.convolve(x, self.param('kernel', self.kernel_init, shape))
    if self.bias_init is None:
      return y
    bias = self.param('bias', self.bias_init, (self.features,))
    return y + bias.astype(y.dtype)[None, None, None, :]

  def convolve(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """What `__call__` does, by this kernel and without a bias."""
    side = self.kernel_size
    return jax.lax.conv_general_dilated(
      x.astype(self.dtype),
      kernel.astype(self.dtype),
      (self.stride,) * 2,
      ((side // 2,) * 2,) * 2,
      dimension_numbers=_DIMENSIONS,
      feature_group_count=self.groups,
    )


def torch_conv(
  features: int, kernel_size: int, fan_in: int, **fields: Any
) -> Conv:
  """A convolution with bias and torch's default initialisation.

  Args:
    features: output channels.
    kernel_size: of both sides.
    fan_in: kernel*kernel*input channels, which scales the bias's range.
    **fields: others of `Conv`.
  """
  bias_init = torch_bias_init(fan_in)
  return Conv(
    features, kernel_size, kernel_init=torch_init, bias_init=bias_init, **fields
  )


class ConvTranspose(nn.Module):
  """A transposed convolution that doubles the sides: torch's, of stride 2.

  Attributes:
    features: output channels.
    kernel_size: of both sides.
    padding: torch's.
    output_padding: torch's.
    use_bias: whether it adds one.
    kernel_init: of the kernel [k,k,I,O].
    bias_init: of the bias [O].
  """

  features: int
  kernel_size: int
  padding: int
  output_padding: int = 0
  use_bias: bool = True
  kernel_init: nn.initializers.Initializer = torch_init
  bias_init: nn.initializers.Initializer = nn.initializers.zeros_init()

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [N,h,w,I] to [N,H,W,O], H = 2 h + k - 2 - 2 p + output padding."""
    shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
    kernel = self.param('kernel', self.kernel_init, shape)
    x, kernel = nn.dtypes.promote_dtype(x, kernel)
    x = enlarge(x, kernel, self.padding, self.output_padding)
    if self.use_bias:
      bias = self.param('bias', self.bias_init, (self.features,))
      x = x + bias[None, None, None, :]
    return x


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def enlarge(
  x: jax.Array, kernel: jax.Array, padding: int, output_padding: int
) -> jax.Array:
  """The transposed convolution of `ConvTranspose`, without bias.

  Its gradients are those of the strided convolution that it is the transpose
  of: what JAX derives, a convolution by a kernel as large as the map, takes
  XLA:CPU 15 to 30 times as long.
  """
  edge = kernel.shape[0] - 1 - padding
  return jax.lax.conv_transpose(
    x,
    kernel,
    (2, 2),
    ((edge, edge + output_padding),) * 2,
    dimension_numbers=_DIMENSIONS,
  )


def _enlarged(x, kernel, padding, output_padding):
  return enlarge(x, kernel, padding, output_padding), (x, kernel)


def _enlarge_gradients(padding, output_padding, given, gradient):
  x, kernel = given

  def reduced(kernel):
    return jax.lax.conv_general_dilated(
      gradient,
      kernel,
      (2, 2),
      ((padding, padding - output_padding),) * 2,
      dimension_numbers=_DIMENSIONS,
    )

  def mirrored(kernel):
    return kernel[::-1, ::-1].swapaxes(2, 3)

  of_x, pull = jax.vjp(reduced, mirrored(kernel))
  (of_kernel,) = pull(x)
  return of_x, mirrored(of_kernel)


enlarge.defvjp(_enlarged, _enlarge_gradients)


class Linear(nn.Module):
  """A dense layer: [N,C] to [N,K].

  Attributes:
    features: K.
    dtype: what it computes in.
    kernel_init: of its kernel; torch's default.
    bias_init: of its bias; None is torch's default.
  """

  features: int
  dtype: jnp.dtype = jnp.float32
  kernel_init: nn.initializers.Initializer = torch_init
  bias_init: nn.initializers.Initializer | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [N,C] to [N,features] in `dtype`."""
    fan_in = x.shape[-1]
    kernel = self.param('kernel', self.kernel_init, (fan_in, self.features))
    bias_init = self.bias_init or torch_bias_init(fan_in)
    bias = self.param('bias', bias_init, (self.features,))
    kernel, bias = kernel.astype(self.dtype), bias.astype(self.dtype)
    return x.astype(self.dtype) @ kernel + bias[None, :]


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
    self, x: jax.Array, *, train: bool, after: Conv | None = None
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
    self, x: jax.Array, after: Conv, factor: jax.Array, offset: jax.Array
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


class Network(nn.Module, kw_only=True):
  """What the image classifiers share: images [N,H,W,3] to logits [N,K] f32.

  Taps of every network: 'stem', 'stage{i}' and 'stage{i}_pre' for each stage,
  'pooled', 'logits'; and 'stage{i}_post' of the last stage where another map
  than 'stage{i}' is pooled.

  Attributes:
    num_classes: K.
    dtype: what it computes in; parameters, statistics and taps are float32.
    batch_norm: see `BatchNorm.mode`.
    bn_group_size: see `BatchNorm.group_size`.
  """

  num_classes: int
  dtype: jnp.dtype = jnp.float32
  batch_norm: BatchNormMode = 'auto'
  bn_group_size: int = 0

  def __post_init__(self):
    """Raises UsageError for an unknown mode."""
    check_mode(self.batch_norm)
    super().__post_init__()

  @property
  def norm(self) -> Callable[..., BatchNorm]:
    """Makes a BatchNorm in the network's mode."""
    return functools.partial(
      BatchNorm, mode=self.batch_norm, group_size=self.bn_group_size
    )

  def classify(
    self,
    x: jax.Array,
    kernel_init: nn.initializers.Initializer = torch_init,
    bias_init: nn.initializers.Initializer | None = None,
  ) -> jax.Array:
    """The mean of [N,h,w,c] over space, or [N,c], and 'fc', both tapped."""
    x = x.astype(jnp.float32)
    pooled = tap(self, 'pooled', x.mean(axis=(1, 2)) if x.ndim == 4 else x)
    logits = Linear(
      self.num_classes, self.dtype, kernel_init, bias_init, name='fc'
    )(pooled)
    return tap(self, 'logits', logits.astype(jnp.float32))


def check_choice(kind: str, value: str, choices: tuple[str, ...]) -> None:
  """Raises UsageError where a network's field is none of its choices."""
  if value not in choices:
    raise errors.unknown(kind, value, choices)
