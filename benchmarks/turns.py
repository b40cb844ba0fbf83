"""How a loader of `benchmarks/` answers `kd_jax.benchmark.throughput`.

It says what it is on one line of JSON; then, for each line with a number of
batches, how long they took: {"seconds": of them all}.
"""

from collections.abc import Callable, Iterator
import json
import os
import sys
import time
from typing import Any


def main(make: Callable[[dict[str, Any]], tuple[Iterator[Any], str]]) -> None:
  """Answers until its input ends.

  Args:
    make: gives batches and what makes them; raises ImportError where that is
      not installed. Its arguments are 'folder' (of the training images),
      'size' (pixels), 'batch' (images), 'workers', 'variant'.
  """
  # The answers have the first standard output to themselves.
  answers = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)

  def answer(value: dict[str, Any]) -> None:
    print(json.dumps(value), file=answers, flush=True)

  try:
    batches, what = make(json.loads(sys.argv[1]))
  except ImportError as error:
    answer({'left_out': str(error).splitlines()[0]})
    return
  next(batches)
  answer({'what': what})
  for line in sys.stdin:
    began = time.perf_counter()
    for _ in range(int(line)):
      next(batches)
    answer({'seconds': time.perf_counter() - began})
