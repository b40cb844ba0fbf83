"""Analysis of traced programs, and statistics that a backend may offer.

FLOPs and inputs are determined from the jaxpr, so they are the same on every
backend. XLA's statistics of a compiled program and a device's memory
statistics are for information only: they are None or empty on a backend that
does not offer them.
"""

from collections.abc import Callable, Mapping, Sequence
import math
from typing import Any

import jax
from jax.extend import core
from jax.interpreters import partial_eval

# The errors of a backend that does not offer a statistic.
_UNKNOWN = (NotImplementedError, jax.errors.JaxRuntimeError)


def pruned(program: core.ClosedJaxpr) -> tuple[core.ClosedJaxpr, list[bool]]:
  """Removes the equations and inputs that a program's results do not need.

  Nested calls are pruned too.

  Args:
    program: The program, as returned by `jax.make_jaxpr`.

  Returns:
    The pruned program, whose inputs are those that are read, and for each
    input of `program` whether it is read.
  """
  jaxpr = program.jaxpr
  live, used = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
  return core.ClosedJaxpr(live, program.consts), list(used)


def flops(program: core.ClosedJaxpr) -> float:
  """Returns the FLOPs of a program's convolutions and matrix products.

  A multiply-add counts as two FLOPs, so the figures are twice those of
  torchvision and fvcore. As in theirs, products with a convolution's padding
  count. Operations that the results do not need do not count. The body of a
  loop counts once per iteration if their number is known, and once otherwise
  (`lax.while_loop`). A conditional counts as its most expensive branch.

  Args:
    program: The program, as returned by `jax.make_jaxpr`.
  """
  live, _ = pruned(program)
  return _flops(live.jaxpr)


def _flops(jaxpr: core.Jaxpr) -> float:
  return math.fsum(_equation_flops(equation) for equation in jaxpr.eqns)


def _equation_flops(equation: core.JaxprEqn) -> float:
  name, params = equation.primitive.name, equation.params
  if name == 'dot_general':
    (contracted, _), _ = params['dimension_numbers']
    output = _shape(equation.outvars[0])
    left = _shape(equation.invars[0])
    return (
      2.0 * math.prod(output) * math.prod(left[axis] for axis in contracted)
    )
  if name == 'conv_general_dilated':
    return _convolution_flops(equation)
  inner_flops = [_flops(jaxpr) for jaxpr in _jaxprs(params)]
  if name == 'cond':
    return max(inner_flops, default=0.0)
  repeats = 1
  if name == 'scan':
    repeats = params['length']
  elif name == 'shard_map':  # its jaxpr is the program of one device
    repeats = params['mesh'].size
  return repeats * math.fsum(inner_flops)


def _convolution_flops(equation: core.JaxprEqn) -> float:
  """Returns a convolution's FLOPs, without products with dilation's zeros."""
  params, kernel = equation.params, _shape(equation.invars[1])
  output = _shape(equation.outvars[0])
  _, kernel_axes, output_axes = params['dimension_numbers']
  products = math.prod(output[axis] for axis in output_axes[:2])
  products *= kernel[kernel_axes[1]]
  for positions, window, *geometry in zip(
    (output[axis] for axis in output_axes[2:]),
    (kernel[axis] for axis in kernel_axes[2:]),
    params['window_strides'],
    (low for low, _ in params['padding']),
    params['lhs_dilation'],
    params['rhs_dilation'],
    strict=True,
  ):
    products *= _pairs(positions, window, *geometry)
  return 2.0 * products


def _pairs(
  positions: int, window: int, stride: int, low: int, dilation: int, gap: int
) -> int:
  """Returns the number of products of a convolution along one axis.

  A product pairs an output position with a kernel element. Products with the
  zeros that `lhs_dilation` inserts between inputs do not count; the gradient
  of a strided convolution has such zeros.

  Args:
    positions: The number of output positions.
    window: The number of kernel elements.
    stride: The stride of the window.
    low: The padding before the first input.
    dilation: The dilation of the input.
    gap: The dilation of the kernel.
  """
  if dilation == 1:
    return positions * window
  return sum(
    (position * stride + element * gap - low) % dilation == 0
    for position in range(positions)
    for element in range(window)
  )


def _shape(variable: Any) -> tuple[int, ...]:
  return variable.aval.shape


def _jaxprs(params: Mapping[str, Any]) -> list[core.Jaxpr]:
  """Returns the jaxprs that an equation calls, from its parameters."""
  jaxprs: list[core.Jaxpr] = []
  for value in params.values():
    for item in value if isinstance(value, Sequence) else (value,):
      if isinstance(item, core.ClosedJaxpr):
        jaxprs.append(item.jaxpr)
      elif isinstance(item, core.Jaxpr):
        jaxprs.append(item)
  return jaxprs


def told(ask: Callable[[], Any]) -> Any:
  """Returns a statistic, or None if the backend does not offer it.

  Args:
    ask: Returns the statistic, as `compiled.cost_analysis` does.
  """
  try:
    return ask()
  except _UNKNOWN:
    return None


def memory(device: jax.Device) -> dict[str, int]:
  """Returns a device's memory statistics, bytes by name; empty if unknown."""
  return told(device.memory_stats) or {}
