"""The protocol of the loaders that `kd_jax.benchmark.throughput` measures.

A loader first prints one line of JSON, {"what": name and version} or
{"left_out": reason}. Then, for each input line with a number of batches, it
prints the seconds that they took: {"seconds": total of these batches}.
"""

from collections.abc import Callable, Iterator
import json
import os
import sys
import time
from typing import Any


def main(make: Callable[[dict[str, Any]], tuple[Iterator[Any], str]]) -> None:
  """Answers requests until standard input ends.

  Args:
    make: Returns the batches and the name and version of their loader; raises
      ImportError if the loader is not installed. Its argument is the JSON
      object of the command line: 'name' (of the data set), 'folder' (of the
      training images), 'size' (pixels), 'batch' (images), 'workers' and
      'variant'.
  """
  # Only answers go to the original standard output; prints go to stderr.
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
