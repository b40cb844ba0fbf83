"""Measures how fast a data set streams, beside other loaders.

  python -m kd_jax.benchmark.throughput folder:/path --image_size=224 \\
    --workers=1,2 \\
    --torch_python=/path/to/python --tf_python=/path/to/python

Images become training batches: random resized crops in uint8. Every loader is a
process (`benchmarks/loader_*.py`), which is stopped while it is not its turn.
The table shows images per second of wall time, and images per second of CPU
time over all processes of the loader; the latter is the rate of one core,
whatever else the machine does. `benchmarks/make_jpegs.py` makes files to
measure with. The other loaders read folders only, and need a Python with their
packages.
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
from kd_jax.data import policies as data_policies

_WORKERS = flags.DEFINE_list('workers', ['2'], 'Processes that decode.')
_SIZE = flags.DEFINE_integer('image_size', 0, "Pixels; 0 is the images' own.")
_BATCH = flags.DEFINE_integer('batch_size', 64, 'Images a batch.')
_BATCHES = flags.DEFINE_integer('batches', 20, 'Batches a turn.')
_REPEATS = flags.DEFINE_integer('repeats', 3, 'Turns; the median counts.')
_POLICIES = flags.DEFINE_list(
  'policies', [''], "As config.data.policy, each measured; '' is none."
)
_FAST = flags.DEFINE_bool(
  'fast', False, 'Whether config.data.fast_decode is measured too.'
)
_TORCH = flags.DEFINE_string('torch_python', '', 'A Python with torchvision.')
_TF = flags.DEFINE_string('tf_python', '', 'A Python with TensorFlow.')


class Loader(NamedTuple):
  """A way to make batches.

  Attributes:
    label: Its name in the table.
    python: The Python that runs the script.
    script: The script `benchmarks/loader_<script>.py`.
    variant: The variant of the script.
    workers: Processes or threads beside the main one.
  """

  label: str
  python: str
  script: str
  variant: str
  workers: int


def loaders(
  workers: Sequence[int],
  torch_python: str,
  tf_python: str,
  files: bool,
  policies: Sequence[str] = ('',),
  fast: bool = False,
) -> list[Loader]:
  """Returns the loaders that take turns.

  Args:
    workers: The numbers of workers to measure.
    torch_python: A Python with torchvision; '' leaves torchvision out.
    tf_python: A Python with TensorFlow; '' leaves tf.data out.
    files: Whether the data set is a folder of files.
    policies: What is done to each image; see `config.data.policy`. Of these
      torchvision takes part in 'randaugment', tf.data in none.
    fast: Whether `config.data.fast_decode` is measured too.
  """
  this_python = sys.executable
  entries = []
  for number in workers:
    count = f'{number} worker{"" if number == 1 else "s"}'
    entries += [
      Loader(
        ', '.join(filter(None, ('kd_jax', policy, count))),
        this_python,
        'kd_jax',
        f'stream {policy}'.strip(),
        number,
      )
      for policy in (*policies, *(['fast'] if fast else []))
    ]
    if torch_python and files:
      entries += [
        Loader(
          ', '.join(filter(None, (label, policy, count))),
          torch_python,
          'torchvision',
          f'{variant} {policy}'.strip(),
          number,
        )
        for variant, label in (
          ('pillow', 'torchvision'),
          ('tensor', 'torchvision, uint8 tensors'),
        )
        for policy in policies
        if policy in ('', 'randaugment')
      ]
    if tf_python and files and number and '' in policies:
      threads = f'{number} thread{"" if number == 1 else "s"}'
      label = f'tf.data, {threads}'
      entries.append(Loader(label, tf_python, 'tfdata', '', number))
  if files:
    entries.append(
      Loader('plain Pillow, 1 process', this_python, 'kd_jax', 'pillow', 0)
    )
  return entries


def start(loader: Loader, given: dict[str, Any]) -> peer.Peer:
  """Starts the process of a loader, and returns it ready for its first turn.

  Args:
    loader: The loader.
    given: The arguments that all scripts share.

  Raises:
    UsageError: This is not a checkout with the script, or the script fails.
  """
  root = epath.Path(__file__).parent.parent.parent
  script = root / 'benchmarks' / f'loader_{loader.script}.py'
  if not script.exists():
    raise errors.UsageError(f'this needs a checkout: there is no {script}')
  arguments = given | {'variant': loader.variant, 'workers': loader.workers}
  command = [loader.python, str(script), json.dumps(arguments)]
  environment = {'PYTHONPATH': str(root)} if loader.script == 'kd_jax' else {}
  return peer.Peer(loader.label, command, environment)


class Rates(NamedTuple):
  """The rates of a loader in every turn.

  Attributes:
    wall: Images per second.
    cpu: Images per second of CPU time; NaN where it is unknown.
  """

  wall: list[float]
  cpu: list[float]


def measure(
  every: Sequence[peer.Peer], repeats: int, batches: int, batch: int
) -> list[Rates]:
  """Returns each loader's rates over several turns, after one warm-up turn.

  Args:
    every: The processes of the loaders.
    repeats: Turns that count.
    batches: Batches of a turn.
    batch: Images of a batch.
  """
  all_rates = [Rates([], []) for _ in every]
  for repeat in range(repeats + 1):
    for process, rates in zip(every, all_rates, strict=True):
      before = process.cpu_s()
      seconds = process.ask(batches)['seconds']
      cpu_s = process.cpu_s() - before
      if repeat:
        rates.wall.append(batch * batches / seconds)
        rates.cpu.append(batch * batches / cpu_s if cpu_s else np.nan)
  return all_rates


def _text(values: Sequence[float]) -> str:
  middle = f'{np.median(values):.0f}'
  return f'{middle} ({min(values):.0f}-{max(values):.0f})'


def main(argv: Sequence[str]) -> None:
  """Prints images per second: median, least and most."""
  if len(argv) != 2:
    raise app.UsageError('give one data set, such as folder:/path')
  name, batch = argv[1], _BATCH.value
  files = name.startswith('folder:')
  arguments = {
    'name': name,
    'folder': f'{name.removeprefix("folder:")}/train',
    'size': _SIZE.value,
    'batch': batch,
  }
  for policy in filter(None, _POLICIES.value):
    if policy not in data_policies.NAMES:
      raise errors.unknown('--policies:', policy, data_policies.NAMES)
  entries = loaders(
    [int(number) for number in _WORKERS.value],
    _TORCH.value,
    _TF.value,
    files,
    _POLICIES.value,
    _FAST.value,
  )
  with contextlib.ExitStack() as ending:
    running = []
    for loader in entries:
      process = start(loader, arguments)
      ending.callback(process.close)
      if reason := process.about.get('left_out'):
        print(f'{process.label} is left out: {reason}')
        continue
      print(f'{process.label}: {process.about["what"]}', flush=True)
      running.append(process)
    all_rates = measure(running, _REPEATS.value, _BATCHES.value, batch)
  print(
    f'{os.cpu_count()} cores, batch {batch}, {_BATCHES.value} batches a turn, '
    f'n={_REPEATS.value}; median (least-most)\n'
    f'{"":36}{"images/s":>18}{"a CPU second":>18}'
  )
  for process, rates in zip(running, all_rates, strict=True):
    print(f'{process.label:36}{_text(rates.wall):>18}{_text(rates.cpu):>18}')


if __name__ == '__main__':
  app.run(main)
