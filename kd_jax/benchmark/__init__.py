"""Times training steps of several configurations, side by side.

  kd-jax benchmark kd:cifar100_r20_r8 fpd ofd --student=resnet8
  kd-jax benchmark kd:cifar100_r20_r8 --compare
  kd-jax benchmark fpd crd --compare --peers=eager,compiled
  kd-jax benchmark kd:cifar100_r20_r8 --breakdown
  kd-jax benchmark kd --batch_size=16,64,256
  kd-jax benchmark kd --devices=1,2,4,8

Every configuration is built as `kd_jax.main` builds it, but with random images
and random networks, so that no data set is needed. The benchmark times the
run's own dispatch, including augmentation and the indices from the host, with
the images on the device. If a configuration has phases, it times a step of the
first phase.

After compilation and one warm-up round, the configurations take turns, so that
other load on the machine affects all of them alike. A large matrix product
takes turns too; its speed stands for the chip's peak. The ratio to the first
configuration and the share of the peak are computed round by round. A turn ends
when the device has finished. Several batch sizes, steps per dispatch, data set
sizes or numbers of devices give one row each.

With --compare, PyTorch peers of each configuration take turns too, and their
ratios are relative to the configuration that they train; see
benchmarks/torch_peer.py. Segmentation and detection (benchmarks/dense.py) have
an eager peer alone; give their --image_size and --classes. With --breakdown,
the parts of the first configuration's step take turns too.
"""

import argparse
from collections.abc import Sequence
import itertools
import json
import os
import sys
from typing import Any

from absl import logging

from kd_jax import errors
from kd_jax.benchmark import case, cost, peers, pieces, turns
from kd_jax.runtime import command
from kd_jax.training import provenance

_LISTS = (
  'batch_size', 'steps_per_dispatch', 'teacher_ahead', 'images', 'devices',
)  # fmt: skip


@command.reporting()
def main(argv: Sequence[str]) -> int:
  """Prints the tables for the configurations on the command line."""
  logging.set_verbosity(logging.WARNING)
  args = _parser().parse_args(argv)
  if args.compare:  # the peers need memory of the same GPU
    os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  torch_peers: list[peers.Peer] = []
  try:
    if args.compare:
      peers.check()
    cases = _cases(args)
    if args.compare:
      torch_peers = peers.start(cases, args.peers, args.peer_threads)
    rows = _rows(cases, torch_peers, args)
  finally:
    for torch_peer in torch_peers:
      torch_peer.close()
  print(turns.table(rows))
  print(f'\n{turns.sizes(rows)}')
  ran_on = provenance.found()
  if torch_peers:
    ran_on['versions']['torch'] = torch_peers[0].about['torch']
  versions = ', '.join(
    f'{name} {version}' for name, version in ran_on['versions'].items()
  )
  print(
    f'\nbatch {args.batch_size}, {args.image_size} pixels, {args.classes} '
    f'classes, {args.images} images, n={args.repeats} turns; '
    f'{ran_on["hardware"]} ({ran_on["host"]}); {versions}; '
    f'commit {ran_on["commit"]}'
  )
  if args.json:
    with open(args.json, 'w', encoding='utf-8') as file:
      json.dump({'rows': rows, 'arguments': vars(args), **ran_on}, file)
  return 0


def _parser() -> argparse.ArgumentParser:
  parser = command.parser('kd-jax benchmark', __doc__)
  add = parser.add_argument
  add('configs', nargs='+', help='names or files, with :recipe')
  add('--student', help='replaces config.student.name')
  add('--teacher', help='replaces config.teacher.name')
  add('--dtype', help='replaces config.dtype')
  add('--image_size', type=int, default=32)
  add('--classes', type=int, default=100)
  add('--images', default='50000', help='of the set; or several: 1000,50000')
  add('--batch_size', default='64', help='or several: 16,64,256')
  add('--steps_per_dispatch', default='0', help='or several; 0 is as a run')
  add('--teacher_ahead', default='0', help='steps, or several; 0 is as a run')
  add('--devices', default='-1', help='or several: 1,2,4,8; -1 is all')
  add('--repeats', type=int, default=10, help='turns that count')
  add('--steps', type=int, default=1, help='of a turn, at least')
  add('--compare', action='store_true', help='PyTorch peers take turns too')
  add('--peers', default=','.join(peers.VARIANTS), help='which of them')
  add('--peer_threads', type=int, default=0, help='CPU; 0 is as PyTorch says')
  add('--breakdown', action='store_true', help='where a step spends its time')
  add('--json', help='a file for the figures')
  return parser


def _cases(args: argparse.Namespace) -> list[case.Case]:
  """Returns every configuration at every combination of the listed values."""
  lists = {name: _numbers(name, getattr(args, name)) for name in _LISTS}
  several = [name for name in _LISTS if len(lists[name]) > 1]
  cases = []
  for config in args.configs:
    for values in itertools.product(*lists.values()):
      chosen: dict[str, Any] = dict(zip(_LISTS, values, strict=True))
      label = ' '.join([config, *(f'{key}={chosen[key]}' for key in several)])
      built = case.make(config, label, case.Wanted(**_fixed(args), **chosen))
      print(
        f'{label}: compiled in {built.compile_s:.1f} s',
        file=sys.stderr,
        flush=True,
      )
      cases.append(built)
  return cases


def _fixed(args: argparse.Namespace) -> dict[str, Any]:
  """Returns the values that all cases share."""
  names = ('student', 'teacher', 'dtype', 'image_size', 'classes')
  return {name: getattr(args, name) for name in names}


def _numbers(name: str, text: str) -> list[int]:
  try:
    return [int(part) for part in text.split(',')]
  except ValueError as error:
    raise errors.UsageError(
      f'--{name}={text}: give whole numbers: 1,2,4,8'
    ) from error


def _rows(
  cases: Sequence[case.Case],
  others: Sequence[peers.Peer],
  args: argparse.Namespace,
) -> list[dict[str, Any]]:
  """Lets everything take turns, and returns a row of figures for each."""
  memory = cost.device_peak() if len(cases) == 1 else None
  if memory is not None:  # so far of making the state and of compiling
    cases[0].turn(1)
    memory = cost.device_peak()
  parts = pieces.of(cases[0]) if args.breakdown else []
  products = {timed.dtype: cost.Product(timed.dtype) for timed in cases}
  takers = [*cases, *others, *parts, *products.values()]
  times = turns.take(takers, args.repeats, args.steps)
  rows = [
    turns.row(timed, times, cases[0], products[timed.dtype]) for timed in cases
  ]
  if memory is not None:
    rows[0] |= {'memory_bytes': memory, 'memory_by': "the device's peak"}
  rows += [turns.peer_row(torch_peer, times) for torch_peer in others]
  if parts:
    rows[0]['pieces'] = pieces.figures(cases[0], parts, times)
    print(f'{pieces.table(rows[0]["pieces"], rows[0])}\n')
  rows[0]['peak'] = {
    dtype: turns.rate(product.flops, times[id(product)])
    for dtype, product in products.items()
  }
  return rows
