"""One row of the table in a process of its own; table.py starts it.

It is started with its arguments as JSON: those of `case.Wanted`, 'label',
'config' and 'deterministic'; or 'product' with a dtype. It says what it is on
one line of JSON; then, for each line with a number of steps, what they took:

  {"ms": milliseconds a step, "host_ms": of them, waiting for the host}
"""

import json
import os
import sys
from typing import Any

from kd_jax.benchmark import case, cost
from kd_jax.cli import starting


def made(given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
  """Returns what takes turns, warmed up, and what is said of it."""
  if dtype := given.get('product'):
    product = cost.Product(dtype)
    product.turn(1)
    return product, {'flops': product.flops}
  own = {key: given[key] for key in case.Wanted._fields}
  one = case.make(given['config'], given['label'], case.Wanted(**own))
  one.turn(1)
  return one, {
    'ms': one.turn(1).ms,
    'count': one.count,
    'compile_s': one.compile_s,
    'costs': one.costs._asdict(),
    'chips': one.chips,
    'params': one.student_params,
    'extra_params': one.extra_params,
    'kept_params': one.kept_params,
    'peak_bytes': cost.device_peak(),
  }


def main() -> None:
  """Answers until its input ends."""
  given = json.loads(sys.argv[1])
  # The answers have the first standard output to themselves.
  answers = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)
  if given.get('deterministic'):
    flags = (os.environ.get('XLA_FLAGS', ''), *starting.DETERMINISTIC)
    os.environ['XLA_FLAGS'] = ' '.join(flags)
  one, about = made(given)
  print(json.dumps(about), file=answers, flush=True)
  for line in sys.stdin:
    took = one.turn(int(line))
    print(json.dumps(took._asdict()), file=answers, flush=True)


if __name__ == '__main__':
  main()
