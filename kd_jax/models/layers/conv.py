"""Convolutions and dense layers with PyTorch's numerics and defaults."""

from collections.abc import Iterator
import contextlib
import contextvars
import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

_DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')


# N(0, 2 / (k*k*C_out)), torch's `kaiming_normal_(mode='fan_out')`.
conv_init = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')


# U(-1/sqrt(fan_in), 1/sqrt(fan_in)), the default of torch's Conv2d and Linear.
torch_init = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


# N(0, 0.01^2), for the classifiers of VGG and MobileNetV2.
small_init = nn.initializers.normal(0.01)


# N(0, 2 / fan_in), torch's `kaiming_normal_`.
he_init = nn.initializers.variance_scaling(2.0, 'fan_in', 'normal')


def torch_bias_init(fan_in: int) -> nn.initializers.Initializer:
  """Returns the initialiser U(-1/sqrt(fan_in), 1/sqrt(fan_in)) of a bias."""

  def init(key, shape, dtype=jnp.float32):
    bound = fan_in**-0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init


class Conv(nn.Module):
  """A square convolution that pads every side by the same, as torch's does.

  Flax's 'SAME' pads (0, 1) where the stride is 2; torch pads (1, 1).

  Attributes:
    features: The number of output channels, O.
    kernel_size: The side k of the kernel, in pixels.
    stride: The stride along both axes, in pixels.
    groups: The number of channel groups.
    dilation: The distance between the kernel's taps, in pixels.
    padding: The zeros on every side, in pixels; None is dilation * (k//2),
      which keeps the map's size where k is odd and the stride is 1.
    dtype: The dtype of the computation.
    kernel_init: Initialises the kernel [k,k,I/groups,O].
    bias_init: Initialises the bias [O]; None leaves the bias out.
  """

  features: int
  kernel_size: int
  stride: int = 1
  groups: int = 1
  dilation: int = 1
  padding: int | None = None
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
    """Returns the convolution of x by `kernel`, without a bias."""
    padding = self.padding
    if padding is None:
      padding = self.dilation * (self.kernel_size // 2)
    geometry = _Geometry(
      self.stride, (padding, padding), self.dilation, self.groups
    )
    return _convolve(x.astype(self.dtype), kernel.astype(self.dtype), geometry)


# How many devices share a batch in the program that is being traced.
_devices = contextvars.ContextVar('devices', default=1)


@contextlib.contextmanager
def traced_for(devices: int) -> Iterator[None]:
  """Traces networks for a batch that several devices share.

  No layer then takes the batch in parts of its own, which CPU devices would
  have to exchange. The training step does this by itself; in a step of your own
  results differ by rounding only. It holds for what is traced within it: an
  inner `jit` that was traced before keeps its program.

  Args:
    devices: The number of devices that share a batch.
  """
  token = _devices.set(devices)
  try:
    yield
  finally:
    _devices.reset(token)


class _Geometry(NamedTuple):
  """A convolution's fields, as `Conv` has them, alike along both axes."""

  stride: int
  padding: tuple[int, int]
  dilation: int = 1
  groups: int = 1


def _plain(x: jax.Array, kernel: jax.Array, geometry: _Geometry) -> jax.Array:
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    (geometry.stride,) * 2,
    (geometry.padding,) * 2,
    rhs_dilation=(geometry.dilation,) * 2,
    dimension_numbers=_DIMENSIONS,
    feature_group_count=geometry.groups,
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve(
  x: jax.Array, kernel: jax.Array, geometry: _Geometry
) -> jax.Array:
  """Returns the convolution of x [N,H,W,I] by kernel [k,k,I/groups,O].

  The gradients are those that JAX derives; on a CPU the kernel's is summed over
  parts of the batch. XLA:CPU takes up to five times as long for 512 images at
  once (`benchmarks/README.md`). `jax.jvp` does not go through it.
  """
  return _plain(x, kernel, geometry)


def _convolve_forward(x, kernel, geometry):
  return _plain(x, kernel, geometry), (x, kernel)


def _convolve_gradients(geometry, given, gradient):
  x, kernel = given

  def by_kernel(x, gradient):
    forward = functools.partial(_plain, x, geometry=geometry)
    return jax.linear_transpose(forward, kernel)(gradient)[0]

  def in_parts(x, gradient):
    size = _images_at_once(x.shape)
    total = jnp.zeros(kernel.shape, jnp.promote_types(x.dtype, jnp.float32))
    for first in range(0, len(x), size):
      part = slice(first, first + size)
      total += by_kernel(x[part], gradient[part]).astype(total.dtype)
    return total.astype(kernel.dtype)

  forward = functools.partial(_plain, kernel=kernel, geometry=geometry)
  (x_gradient,) = jax.linear_transpose(forward, x)(gradient)
  if geometry.groups > 1 or _devices.get() > 1:
    return x_gradient, by_kernel(x, gradient)
  return x_gradient, jax.lax.platform_dependent(
    x, gradient, cpu=in_parts, default=by_kernel
  )


_convolve.defvjp(_convolve_forward, _convolve_gradients)


def _images_at_once(shape: tuple[int, ...]) -> int:
  """Returns the number of images whose kernel gradient a CPU takes at once.

  There are at most 16 parts, as each is compiled.

  Args:
    shape: That of the convolution's input, (N, H, W, I).
  """
  images, height, width, _ = shape
  fast = max(1, min(16, 2**14 // max(1, height * width)))
  return max(fast, -(-images // 16))


def torch_conv(
  features: int, kernel_size: int, fan_in: int, **fields: Any
) -> Conv:
  """Returns a convolution with a bias and torch's default initialisation.

  Args:
    features: The number of output channels.
    kernel_size: The side of the kernel, in pixels.
    fan_in: kernel*kernel*input channels, which sets the range of the bias.
    **fields: Further fields of `Conv`.
  """
  bias_init = torch_bias_init(fan_in)
  return Conv(
    features, kernel_size, kernel_init=torch_init, bias_init=bias_init, **fields
  )


class ConvTranspose(nn.Module):
  """A transposed convolution that doubles the sides: torch's, with stride 2.

  Attributes:
    features: The number of output channels, O.
    kernel_size: The side k of the kernel, in pixels.
    padding: The padding p, as torch defines it.
    output_padding: The output padding, as torch defines it.
    use_bias: Whether to add a bias.
    kernel_init: Initialises the kernel [k,k,I,O].
    bias_init: Initialises the bias [O].
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
    """Maps [N,h,w,I] to [N,H,W,O]: H = 2 h + k - 2 - 2 p + output_padding."""
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
  """Returns the transposed convolution of `ConvTranspose`, without the bias.

  The gradients are written out as those of the strided convolution that this is
  the transpose of. The gradient that JAX derives, a convolution by a kernel as
  large as the map, takes XLA:CPU 15 to 30 times as long.

  Args:
    x: The maps, [N,h,w,I].
    kernel: [k,k,I,O].
    padding: The padding, as torch defines it.
    output_padding: The output padding, as torch defines it.

  Returns:
    [N,H,W,O].
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
    edges = (padding, padding - output_padding)
    return _convolve(gradient, kernel, _Geometry(2, edges))

  def mirrored(kernel):
    return kernel[::-1, ::-1].swapaxes(2, 3)

  x_grad, pullback = jax.vjp(reduced, mirrored(kernel))
  (kernel_grad,) = pullback(x)
  return x_grad, mirrored(kernel_grad)


enlarge.defvjp(_enlarged, _enlarge_gradients)


class Linear(nn.Module):
  """A dense layer, which maps [...,C] to [...,K].

  Attributes:
    features: The number of outputs, K.
    dtype: The dtype of the computation.
    kernel_init: Initialises the kernel [C,K]; torch's default.
    bias_init: Initialises the bias [K]; None is torch's default.
  """

  features: int
  dtype: jnp.dtype = jnp.float32
  kernel_init: nn.initializers.Initializer = torch_init
  bias_init: nn.initializers.Initializer | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [...,C] to [...,features] in `dtype`."""
    fan_in = x.shape[-1]
    kernel = self.param('kernel', self.kernel_init, (fan_in, self.features))
    bias_init = self.bias_init or torch_bias_init(fan_in)
    bias = self.param('bias', bias_init, (self.features,))
    kernel, bias = kernel.astype(self.dtype), bias.astype(self.dtype)
    axes = tuple(range(x.ndim - 1))
    return x.astype(self.dtype) @ kernel + jnp.expand_dims(bias, axes)
