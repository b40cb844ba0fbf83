"""What a step costs, and what the chip can do at most."""

import functools
import math
import re
import time
from typing import Any, NamedTuple

import jax

from kd_jax.runtime import jaxprs


class Turn(NamedTuple):
  """What one turn took.

  Attributes:
    ms: milliseconds a step.
    host_ms: of them, waiting for what the host gives.
  """

  ms: float
  host_ms: float = 0.0


class Costs(NamedTuple):
  """Of one training step.

  Attributes:
    flops: of the convolutions and products that are asked for, the same on
      every backend; see `jaxprs.flops`. Achieved FLOP/s are of these.
    compiled_flops: XLA's count of the compiled program; lower than what is done
      where a library does it (GPU), and of one step where a dispatch has more.
    compiled_bytes: that the compiled program reads and writes.
    memory_bytes: arguments, results and temporary buffers, what is donated
      once: the device memory of a dispatch.
    exchanged: bytes that each device gives to collectives.

  Whatever the backend does not tell is None.
  """

  flops: float
  compiled_flops: float | None
  compiled_bytes: float | None
  memory_bytes: int | None
  exchanged: int | None


def of(traced: Any, compiled: Any, steps: int = 1) -> Costs:
  """Returns the costs of a step.

  Args:
    traced: the dispatch as `jax.jit(...).trace` gives it.
    compiled: the same dispatch, compiled.
    steps: that the dispatch has.
  """
  analysis = jaxprs.told(compiled.cost_analysis) or {}
  text = jaxprs.told(compiled.as_text)
  memory = jaxprs.told(compiled.memory_analysis)
  moved = analysis.get('bytes accessed')
  if moved is None and text:  # XLA has no count for a GPU that is not there
    moved = moved_bytes(text)
  return Costs(
    flops=jaxprs.flops(traced.jaxpr) / steps,
    compiled_flops=analysis.get('flops'),
    compiled_bytes=moved,
    memory_bytes=memory
    and (
      memory.argument_size_in_bytes
      + memory.output_size_in_bytes
      + memory.temp_size_in_bytes
      - memory.alias_size_in_bytes
    ),
    exchanged=collective_bytes(text) if text else None,
  )


# What does nothing when a program runs.
_FREE = (
  'bitcast', 'constant', 'get-tuple-element', 'parameter', 'partition-id',
  'tuple',
)  # fmt: skip


class _Instruction(NamedTuple):
  """One line of XLA's text of a program."""

  name: str
  shape: str
  kind: str
  operands: str


def _instructions(program: str) -> list[_Instruction]:
  """What stands in the program's entry, in order."""
  entry = program.partition('\nENTRY ')[2].partition('\n}')[0]
  pattern = r'^\s+(?:ROOT )?(%\S+) = (.*?) ([a-z][a-z\d-]*)\(([^)]*)\)'
  return [_Instruction(*each) for each in re.findall(pattern, entry, re.M)]


def _free(instruction: _Instruction) -> bool:
  kind = instruction.kind  # the end of an asynchronous one is counted before
  return kind in _FREE or kind.endswith('-done')


def operations(program: str) -> int:
  """What the entry of XLA's text of a program starts: on a GPU its kernels."""
  return sum(not _free(each) for each in _instructions(program))


def moved_bytes(program: str) -> float:
  """What the entry's operations read and write, had they no cache."""
  sizes: dict[str, int] = {}
  total = 0
  for each in _instructions(program):
    sizes[each.name] = _bytes(each.shape)
    if not _free(each):
      names = re.findall(r'%[^\s,)]+', each.operands)
      total += sizes[each.name] + sum(sizes[name] for name in names)
  return float(total)


def collective_bytes(program: str) -> int:
  """Bytes of the results of all collectives in XLA's text of a program."""
  kinds = 'all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute'
  total = 0
  for shapes in re.findall(rf'= (\S.*?) (?:{kinds})(?:-start)?\(', program):
    total += _bytes(shapes)
  return total


def _bytes(shapes: str) -> int:
  """Of all arrays in the text of a type."""
  total = 0
  for dtype, sizes in re.findall(r'\b([a-z]+\d*)\[([\d,]*)\]', shapes):
    bits = int(re.sub(r'\D', '', dtype) or 8)  # pred has one byte
    total += math.prod(map(int, filter(None, sizes.split(',')))) * bits // 8
  return total


def device_peak() -> int | None:
  """The most memory that the device held so far, where the backend knows."""
  return jaxprs.memory(jax.local_devices()[0]).get('peak_bytes_in_use')


class Product:
  """A large matrix product, whose speed stands for the chip's peak.

  Attributes:
    dtype: of the matrices; float32 is multiplied as JAX does by default, on a
      recent GPU in TF32.
    flops: of a step.
  """

  def __init__(self, dtype: str):
    """Makes the matrices."""
    cpu = jax.devices()[0].platform == 'cpu'
    size, times = (1024, 2) if cpu else (8192, 16)
    self.dtype, self.flops = dtype, 2.0 * size**3 * times
    # Entries of 1/sqrt(size) keep the product's size.
    key = jax.random.key(0)
    self._x = (jax.random.normal(key, (size, size)) * size**-0.5).astype(dtype)

    def chain(x, y):
      return functools.reduce(lambda y, _: x @ y, range(times), y)

    self._product = jax.jit(chain)

  def turn(self, steps: int) -> Turn:
    """One chain of products, whatever `steps`."""
    del steps
    began = time.perf_counter()
    self._product(self._x, self._x).block_until_ready()
    return Turn(1e3 * (time.perf_counter() - began))
