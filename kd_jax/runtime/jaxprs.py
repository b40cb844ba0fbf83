"""What a traced program reads and computes, and what a backend tells of it.

FLOPs and parameters are counted from the jaxpr, so that they are the same on
every backend. What XLA says of a compiled program, and a device of its memory,
only informs: a backend that cannot tell gives None, and nothing fails.
"""

from collections.abc import Callable, Mapping, Sequence
import math
from typing import Any

import jax
from jax.extend import core
from jax.interpreters import partial_eval

# What a backend raises where it cannot tell something.
_UNKNOWN = (NotImplementedError, jax.errors.JaxRuntimeError)


def pruned(program: core.ClosedJaxpr) -> tuple[core.ClosedJaxpr, list[bool]]:
  """Drops what the results of a program do not need, in nested calls too.

  Args:
    program: as `jax.make_jaxpr` gives it.

  Returns:
    The program of the inputs that are read, and for each input of `program`
    whether it is read.
  """
  jaxpr = program.jaxpr
  live, used = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
  return core.ClosedJaxpr(live, program.consts), list(used)


def flops(program: core.ClosedJaxpr) -> float:
  """Counts the FLOPs of a program's convolutions and matrix products.

  A multiplication and an addition are two, and what is multiplied with a
  convolution's padding counts, as it does for torchvision's and fvcore's
  figures (which are half of these). What the results do not need is left out.
  A loop with a known number of rounds counts that often, one without
  (`lax.while_loop`) once, a branch as its largest.

  Args:
    program: as `jax.make_jaxpr` gives it.
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
  inner = [_flops(jaxpr) for jaxpr in _jaxprs(params)]
  if name == 'cond':
    return max(inner, default=0.0)
  times = 1
  if name == 'scan':
    times = params['length']
  elif name == 'shard_map':  # its program is of one device
    times = params['mesh'].size
  return times * math.fsum(inner)


def _convolution_flops(equation: core.JaxprEqn) -> float:
  """Counts a convolution's products, leaving out the zeros of dilation."""
  params, kernel = equation.params, _shape(equation.invars[1])
  output = _shape(equation.outvars[0])
  _, kernel_axes, output_axes = params['dimension_numbers']
  products = math.prod(output[axis] for axis in output_axes[:2])
  products *= kernel[kernel_axes[1]]
  for positions, window, *how in zip(
    (output[axis] for axis in output_axes[2:]),
    (kernel[axis] for axis in kernel_axes[2:]),
    params['window_strides'],
    (low for low, _ in params['padding']),
    params['lhs_dilation'],
    params['rhs_dilation'],
    strict=True,
  ):
    products *= _pairs(positions, window, *how)
  return 2.0 * products


def _pairs(
  positions: int, window: int, stride: int, low: int, dilation: int, gap: int
) -> int:
  """Counts pairs of an output position and a kernel element along one axis.

  A pair that meets a zero that dilation put between two inputs, as in the
  gradient of a strided convolution, is left out.
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
  """The programs that an equation calls."""
  found: list[core.Jaxpr] = []
  for value in params.values():
    for each in value if isinstance(value, Sequence) else (value,):
      if isinstance(each, core.ClosedJaxpr):
        found.append(each.jaxpr)
      elif isinstance(each, core.Jaxpr):
        found.append(each)
  return found


def told(ask: Callable[[], Any]) -> Any:
  """Returns what `ask` returns, None where the backend cannot tell.

  Args:
    ask: such as `compiled.cost_analysis`.
  """
  try:
    return ask()
  except _UNKNOWN:
    return None


def memory(device: jax.Device) -> dict[str, int]:
  """Returns a device's memory statistics in bytes by name; empty if unknown."""
  return told(device.memory_stats) or {}
