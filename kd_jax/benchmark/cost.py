"""The costs of a step, and the chip's measured peak."""

from collections.abc import Iterator
import functools
import math
import re
import time
from typing import Any, NamedTuple

import jax

from kd_jax.runtime import jaxprs


class Turn(NamedTuple):
  """The time of one turn.

  Attributes:
    ms: Milliseconds per step.
    host_ms: The part of `ms` that was spent waiting for the host's feeds.
  """

  ms: float
  host_ms: float = 0.0


class Costs(NamedTuple):
  """The costs of one training step; None where the backend does not tell.

  Attributes:
    flops: FLOPs of the requested convolutions and matrix products, the same on
      every backend; see `jaxprs.flops`. Achieved FLOP/s are computed from
      these.
    compiled_flops: XLA's count for the compiled program. It is too low where a
      library does the work (GPU), and counts one step where a dispatch has
      several.
    compiled_bytes: Bytes that the compiled program reads and writes.
    memory_bytes: Device memory of a dispatch: arguments, results and temporary
      buffers, with donated buffers counted once.
    exchanged: Bytes that each device contributes to collectives.
  """

  flops: float
  compiled_flops: float | None
  compiled_bytes: float | None
  memory_bytes: int | None
  exchanged: int | None


def of(traced: Any, compiled: Any, steps: int = 1) -> Costs:
  """Returns the costs of a step.

  Args:
    traced: The dispatch, as `jax.jit(...).trace` returns it.
    compiled: The same dispatch, compiled.
    steps: Steps of the dispatch.
  """
  analysis = jaxprs.told(compiled.cost_analysis) or {}
  text = jaxprs.told(compiled.as_text)
  memory = jaxprs.told(compiled.memory_analysis)
  moved = analysis.get('bytes accessed')
  if moved is None and text:  # XLA does not count for a GPU that is not there
    moved = moved_bytes(text) / steps
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


# Instructions that do nothing when a program runs.
_FREE = (
  'bitcast', 'constant', 'get-tuple-element', 'parameter', 'partition-id',
  'tuple',
)  # fmt: skip


class _Instruction(NamedTuple):
  """An instruction in the text of an XLA program.

  Attributes:
    name: Its name.
    shape: The type of its result.
    kind: What it is, such as 'fusion'.
    operands: The names of its arguments, in a text.
    repeats: How often it runs.
  """

  name: str
  shape: str
  kind: str
  operands: str
  repeats: int


def _instructions(program: str) -> list[_Instruction]:
  """Returns the instructions that a program runs, in order.

  They are those of its entry computation; in place of a loop whose number of
  rounds XLA knows there are those of its body.
  """
  computations = {
    name: (bool(entry), body)
    for entry, name, body in re.findall(
      r'^(ENTRY )?(%\S+) .*?\{\n(.*?)^\}', program, re.M | re.S
    )
  }
  pattern = re.compile(
    r'^\s+(?:ROOT )?(%\S+) = (.*?) ([a-z][a-z\d-]*)\(([^)]*)\)(.*)', re.M
  )

  def run(body: str, repeats: int) -> Iterator[_Instruction]:
    for name, shape, kind, operands, rest in pattern.findall(body):
      inner = re.search(r'body=(%[^\s,]+)', rest)
      rounds = re.search(r'"known_trip_count":\{"n":"(\d+)"', rest)
      if kind == 'while' and inner and rounds:
        yield _Instruction(name, shape, 'tuple', '', 0)
        yield from run(computations[inner[1]][1], repeats * int(rounds[1]))
      else:
        yield _Instruction(name, shape, kind, operands, repeats)

  return [
    instruction
    for is_entry, body in computations.values()
    if is_entry
    for instruction in run(body, 1)
  ]


def _free(instruction: _Instruction) -> bool:
  kind = instruction.kind  # an asynchronous one is counted at its start
  return kind in _FREE or kind.endswith('-done')


def operations(program: str) -> int:
  """Counts the operations that a program starts.

  On a GPU these are its kernels. The body of a loop counts once per round if
  their number is known.

  Args:
    program: XLA's text of the program.
  """
  return sum(
    instruction.repeats
    for instruction in _instructions(program)
    if not _free(instruction)
  )


def moved_bytes(program: str) -> float:
  """Counts the bytes that a program reads and writes if there is no cache.

  Args:
    program: XLA's text of the program; see `operations`.
  """
  sizes: dict[str, int] = {}
  total = 0
  for instruction in _instructions(program):
    sizes[instruction.name] = _bytes(instruction.shape)
    if not _free(instruction):
      names = re.findall(r'%[^\s,)]+', instruction.operands)
      moved = sizes[instruction.name] + sum(sizes[name] for name in names)
      total += moved * instruction.repeats
  return float(total)


def collective_bytes(program: str) -> int:
  """Counts the bytes of the results of all collectives of a program.

  Args:
    program: XLA's text of the program.
  """
  kinds = 'all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute'
  total = 0
  for shapes in re.findall(rf'= (\S.*?) (?:{kinds})(?:-start)?\(', program):
    total += _bytes(shapes)
  return total


def _bytes(shapes: str) -> int:
  """Returns the bytes of all arrays in the text of a type."""
  total = 0
  for dtype, sizes in re.findall(r'\b([a-z]+\d*)\[([\d,]*)\]', shapes):
    bits = int(re.sub(r'\D', '', dtype) or 8)  # pred takes one byte
    total += math.prod(map(int, filter(None, sizes.split(',')))) * bits // 8
  return total


def device_peak() -> int | None:
  """Returns the most memory that the first device has held so far, in bytes.

  It is None if the backend does not tell.
  """
  return jaxprs.memory(jax.local_devices()[0]).get('peak_bytes_in_use')


class Product:
  """A large matrix product, whose speed stands for the chip's peak.

  Attributes:
    dtype: The dtype of the matrices. float32 is multiplied as JAX does by
      default: in TF32 on a recent GPU.
    flops: FLOPs of a step, which is one chain of products.
  """

  def __init__(self, dtype: str):
    """Makes the matrices."""
    cpu = jax.devices()[0].platform == 'cpu'
    size, times = (1024, 2) if cpu else (8192, 16)
    self.dtype, self.flops = dtype, 2.0 * size**3 * times
    # Entries of scale 1/sqrt(size) keep the products from growing.
    key = jax.random.key(0)
    self._x = (jax.random.normal(key, (size, size)) * size**-0.5).astype(dtype)

    def chain(x, y):
      return functools.reduce(lambda y, _: x @ y, range(times), y)

    self._product = jax.jit(chain)

  def turn(self, steps: int) -> Turn:
    """Runs one chain of products, for any number of steps, and times it."""
    del steps
    began = time.perf_counter()
    self._product(self._x, self._x).block_until_ready()
    return Turn(1e3 * (time.perf_counter() - began))
