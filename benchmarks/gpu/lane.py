"""Runs one row of the table in its own process; table.py starts it.

Its argument is a JSON object with the fields of `case.Wanted`, 'label',
'config' and 'deterministic'; or with 'product', a dtype. It prints one line of
JSON that describes the row; then, for each input line with a number of steps,
how long they took:

  {"ms": milliseconds per step, "host_ms": of these, waiting for the host}
"""

import json
import os
import sys
from typing import Any

from kd_jax.benchmark import case, cost
from kd_jax.training import api


def made(given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
  """Returns the row or matrix product, warmed up, and its description.

  Args:
    given: The JSON object of the command line.
  """
  if dtype := given.get('product'):
    product = cost.Product(dtype)
    product.turn(1)
    return product, {'flops': product.flops}
  wanted = {key: given[key] for key in case.Wanted._fields}
  row = case.make(given['config'], given['label'], case.Wanted(**wanted))
  row.turn(1)
  return row, {
    'ms': row.turn(1).ms,
    'count': row.count,
    'ahead': row.ahead,
    'compile_s': row.compile_s,
    'costs': row.costs._asdict(),
    'chips': row.chips,
    'params': row.student_params,
    'extra_params': row.extra_params,
    'kept_params': row.kept_params,
    'peak_bytes': cost.device_peak(),
  }


def main() -> None:
  """Answers requests until standard input ends."""
  arguments = json.loads(sys.argv[1])
  # Only answers go to the original standard output; prints go to stderr.
  answers = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)
  if arguments.get('deterministic'):
    flags = (os.environ.get('XLA_FLAGS', ''), *api.DETERMINISTIC)
    os.environ['XLA_FLAGS'] = ' '.join(flags)
  row, about = made(arguments)
  print(json.dumps(about), file=answers, flush=True)
  for line in sys.stdin:
    turn = row.turn(int(line))
    print(json.dumps(turn._asdict()), file=answers, flush=True)


if __name__ == '__main__':
  main()
