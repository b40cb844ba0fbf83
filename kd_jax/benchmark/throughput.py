"""Measures how fast a data set streams, beside other loaders.

python -m kd_jax.benchmark.throughput folder:/path --image_size=224 \
  --workers=1,2 \
  --torch_python=/path/to/python --tf_python=/path/to/python

Images become training batches: random resized crops, in uint8. Every loader is
a process of its own (`benchmarks/loader_*.py`) that stands still while it is
not its turn. Beside images a second stands what a second of CPU time gives,
over all processes of the loader: what a core does, whatever else the machine
does. `benchmarks/make_jpegs.py` makes files to measure with. The other loaders
read folders, with a Python that has what they need.
"""

from collections.abc import Sequence
import contextlib
import json
import os
import sys
from typing import Any, NamedTuple

from absl import app, flags
from etils import epath
import numpy as np

from kd_jax import errors
from kd_jax.benchmark import peer

_WORKERS = flags.DEFINE_list('workers', ['2'], 'Processes that decode.')
_SIZE = flags.DEFINE_integer('image_size', 0, "Pixels; 0 is the images' own.")
_BATCH = flags.DEFINE_integer('batch_size', 64, 'Images a batch.')
_BATCHES = flags.DEFINE_integer('batches', 20, 'Batches a turn.')
_REPEATS = flags.DEFINE_integer('repeats', 3, 'Turns; the median counts.')
_TORCH = flags.DEFINE_string('torch_python', '', 'A Python with torchvision.')
_TF = flags.DEFINE_string('tf_python', '', 'A Python with TensorFlow.')


class Loader(NamedTuple):
  """A way to make batches.

  Attributes:
    label: how it is called.
    python: that runs it.
    script: in `benchmarks/`.
    variant: of the script.
    workers: processes, or threads, beside the one that asks.
  """

  label: str
  python: str
  script: str
  variant: str
  workers: int


def loaders(
  workers: Sequence[int], torch_python: str, tf_python: str, files: bool
) -> list[Loader]:
  """Who takes turns.

  Args:
    workers: every number of them that is measured.
    torch_python: of torchvision; '' leaves it out.
    tf_python: of tf.data; '' leaves it out.
    files: whether the data set is a folder of files.
  """
  own = sys.executable
  found = []
  for n in workers:
    count = f'{n} worker{"" if n == 1 else "s"}'
    found.append(Loader(f'kd_jax, {count}', own, 'kd_jax', 'stream', n))
    if torch_python and files:
      found += [
        Loader(f'{label}, {count}', torch_python, 'torchvision', variant, n)
        for variant, label in (
          ('pillow', 'torchvision'),
          ('tensor', 'torchvision, uint8 tensors'),
        )
      ]
    if tf_python and files and n:
      threads = f'{n} thread{"" if n == 1 else "s"}'
      label = f'tf.data, {threads}'
      found.append(Loader(label, tf_python, 'tfdata', '', n))
  if files:
    found.append(Loader('plain Pillow, 1 process', own, 'kd_jax', 'pillow', 0))
  return found


def start(loader: Loader, given: dict[str, Any]) -> peer.Peer:
  """The process of a loader, ready for its first turn.

  Raises:
    UsageError: where there is no such script, or it fails.
  """
  root = epath.Path(__file__).parent.parent.parent
  script = root / 'benchmarks' / f'loader_{loader.script}.py'
  if not script.exists():
    raise errors.UsageError(f'this needs a checkout: there is no {script}')
  arguments = given | {'variant': loader.variant, 'workers': loader.workers}
  command = [loader.python, str(script), json.dumps(arguments)]
  ours = {'PYTHONPATH': str(root)} if loader.script == 'kd_jax' else {}
  return peer.Peer(loader.label, command, ours)


class Rates(NamedTuple):
  """Images a second of every turn, and images of a second of CPU time."""

  wall: list[float]
  cpu: list[float]


def measure(
  every: Sequence[peer.Peer], repeats: int, batches: int, batch: int
) -> list[Rates]:
  """What each does in turns, after a first one that does not count."""
  found = [Rates([], []) for _ in every]
  for repeat in range(repeats + 1):
    for one, rates in zip(every, found, strict=True):
      before = one.cpu_s()
      seconds = one.ask(batches)['seconds']
      cpu = one.cpu_s() - before
      if repeat:
        rates.wall.append(batch * batches / seconds)
        rates.cpu.append(batch * batches / cpu if cpu else np.nan)
  return found


def _text(values: Sequence[float]) -> str:
  middle = f'{np.median(values):.0f}'
  return f'{middle} ({min(values):.0f}-{max(values):.0f})'


def main(argv: Sequence[str]) -> None:
  """Prints images a second, median, least and most."""
  if len(argv) != 2:
    raise app.UsageError('give one data set, such as folder:/path')
  name, batch = argv[1], _BATCH.value
  files = name.startswith('folder:')
  given = {
    'name': name,
    'folder': f'{name.removeprefix("folder:")}/train',
    'size': _SIZE.value,
    'batch': batch,
  }
  chosen = loaders(
    [int(n) for n in _WORKERS.value], _TORCH.value, _TF.value, files
  )
  with contextlib.ExitStack() as ending:
    running = []
    for loader in chosen:
      one = start(loader, given)
      ending.callback(one.close)
      if why := one.about.get('left_out'):
        print(f'{one.label} is left out: {why}')
        continue
      print(f'{one.label}: {one.about["what"]}', flush=True)
      running.append(one)
    found = measure(running, _REPEATS.value, _BATCHES.value, batch)
  print(
    f'{os.cpu_count()} cores, batch {batch}, {_BATCHES.value} batches a turn, '
    f'n={_REPEATS.value}; median (least-most)\n'
    f'{"":36}{"images/s":>18}{"a CPU second":>18}'
  )
  for one, rates in zip(running, found, strict=True):
    print(f'{one.label:36}{_text(rates.wall):>18}{_text(rates.cpu):>18}')


if __name__ == '__main__':
  app.run(main)
