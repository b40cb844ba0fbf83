"""Times a training step of several configurations, side by side.

  python -m kd_jax.benchmark kd:cifar100_r20_r8 fpd ofd --student=resnet8
  python -m kd_jax.benchmark kd --devices=1,2,4,8

Every configuration is built as `kd_jax.main` builds it, but on random images
and random networks: no data set is needed. After compiling and one round that
does not count, the configurations take turns, one step each, so that what else
the machine does meets all of them alike; the ratio to the first is taken round
by round. Where there are phases, it is the first phase's step. With --devices
each is timed on meshes of these sizes, for the same global batch.
"""

import argparse
from collections.abc import Sequence
import functools
import json
import math
import re
import sys
import time
from typing import Any, NamedTuple

from absl import logging
import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict
import numpy as np

from kd_jax import (
  abstract,
  build,
  command,
  errors,
  report,
  sharding,
  step,
  trainer,
)
from kd_jax import config as config_lib


class Step(NamedTuple):
  """A compiled step and what it runs on.

  Attributes:
    name: the configuration as it was given.
    compiled: the step.
    state: what is trained.
    frozen: the teachers' variables.
    batch: the images.
    compile_s: seconds to compile.
    extra: parameters that are trained beside the networks.
    kept: parameters at inference.
    exchanged: bytes that each device gives to collectives in a step.
  """

  name: str
  compiled: Any
  state: Any
  frozen: Any
  batch: Any
  compile_s: float
  extra: int
  kept: int
  exchanged: int


@command.reporting()
def main(argv: Sequence[str]) -> int:
  """Prints the table for the configurations of the command line."""
  logging.set_verbosity(logging.WARNING)
  parser = command.parser('kd_jax.benchmark', __doc__)
  parser.add_argument('configs', nargs='+', help='names or files, with :recipe')
  parser.add_argument('--student', help='replaces config.student.name')
  parser.add_argument('--teacher', help='replaces config.teacher.name')
  parser.add_argument('--image_size', type=int, default=32)
  parser.add_argument('--classes', type=int, default=100)
  parser.add_argument('--images', type=int, default=50_000, help='of the set')
  parser.add_argument('--batch_size', type=int, default=64)
  parser.add_argument('--repeats', type=int, default=10)
  parser.add_argument('--devices', default='', help='such as 1,2,4,8')
  parser.add_argument('--json', help='a file for the figures')
  args = parser.parse_args(argv)
  meshes = [sharding.make_mesh(n) for n in _devices(args.devices)]
  steps = [prepare(c, args, mesh) for c in args.configs for mesh in meshes]
  figures = measure(steps, args.repeats)
  print(table(figures))
  where = trainer.provenance()
  versions = ', '.join(f'{k} {v}' for k, v in where['versions'].items())
  print(
    f'\nbatch {args.batch_size}, {args.image_size} pixels, {args.classes} '
    f'classes, n={args.repeats}; {where["hardware"]} ({where["host"]}); '
    f'{versions}; commit {where["commit"]}'
  )
  if args.json:
    with open(args.json, 'w', encoding='utf-8') as file:
      json.dump({'rows': figures, 'arguments': vars(args), **where}, file)
  return 0


def _devices(text: str) -> list[int]:
  """The sizes of meshes; -1 is all devices."""
  try:
    return [int(n) for n in text.split(',')] if text else [-1]
  except ValueError as error:
    raise errors.UsageError(
      f'--devices={text}: give whole numbers: 1,2,4,8'
    ) from error


def prepare(name: str, args: argparse.Namespace, mesh: Mesh) -> Step:
  """Builds and compiles the step of a configuration on a mesh.

  Raises:
    UsageError: for whatever does not exist or does not fit together.
  """
  config = load(name)
  config.batch_size = args.batch_size
  if args.student:
    config.student = config_lib.network(args.student)
  if args.teacher and config.teacher.name:
    mode = config.teacher.args.to_dict().get('batch_norm')
    own = {'batch_norm': mode} if mode else {}
    config.teacher.update(config_lib.network(args.teacher))
    config.teacher.args = ConfigDict(own)
  labels = np.arange(args.images, dtype=np.int32) % args.classes
  facts = {'num_classes': args.classes, 'train_labels': labels}
  phases = build.phases_of(config, facts, args.images // args.batch_size)
  exp = phases[0].exp
  abstract.shapes(exp, args.image_size, args.batch_size)
  sharding.check_batch(mesh, args.batch_size, '--batch_size')
  whole, split = sharding.replicated(mesh), sharding.batched(mesh)
  rng = np.random.default_rng(0)
  image = (args.batch_size, args.image_size, args.image_size, 3)
  index = rng.permutation(args.images)[: args.batch_size].astype(np.int32)
  batch = sharding.put(
    {
      'image': rng.normal(size=image).astype(np.float32),
      'label': labels[index],
      'index': index,
    },
    split,
  )

  def start(key):
    frozen = {}
    for n, network in exp.teachers.items():
      made = dict(network.init(key, batch['image'], train=True))
      made.pop('intermediates', None)
      frozen[n] = made
    return step.init(exp, np.int32(0), frozen, batch), frozen

  state, frozen = jax.jit(start, out_shardings=whole)(jax.random.key(1))
  began = time.perf_counter()
  compiled = (
    jax.jit(
      functools.partial(step.train_step, exp),
      donate_argnums=1,
      in_shardings=(whole, whole, whole, split),
      out_shardings=whole,
    )
    .lower(np.int32(0), state, frozen, batch)
    .compile()
  )
  seconds = time.perf_counter() - began
  extra = sum(
    math.prod(x.shape) for x in jax.tree.leaves(state.params['method'])
  )
  kept = abstract.deployed(exp, args.image_size).params
  if args.devices:
    name = f'{name} on {mesh.size}'
  print(f'{name}: compiled in {seconds:.1f} s', file=sys.stderr, flush=True)
  exchanged = collective_bytes(compiled.as_text() or '')
  return Step(
    name, compiled, state, frozen, batch, seconds, extra, kept, exchanged
  )


def collective_bytes(program: str) -> int:
  """Bytes of the results of all collectives in XLA's text of a program."""
  kinds = 'all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute'
  total = 0
  for shapes in re.findall(rf'= (\S.*?) (?:{kinds})(?:-start)?\(', program):
    for dtype, sizes in re.findall(r'\b([a-z]+\d*)\[([\d,]*)\]', shapes):
      bits = int(re.sub(r'\D', '', dtype) or 8)  # pred has one byte
      total += math.prod(map(int, filter(None, sizes.split(',')))) * bits // 8
  return total


def load(name: str) -> ConfigDict:
  """The configuration of 'fpd', 'fpd:digits' or a file."""
  import importlib.util

  path, _, recipe = name.partition(':')
  spec = importlib.util.spec_from_file_location('_', config_lib.find(path))
  assert spec is not None
  assert spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(recipe or None)


def measure(steps: Sequence[Step], repeats: int) -> list[dict[str, Any]]:
  """Milliseconds a step, and ratios to the first configuration's."""
  states = [one.state for one in steps]
  times: list[list[float]] = [[] for _ in steps]
  for turn in range(repeats + 1):
    for i, one in enumerate(steps):
      began = time.perf_counter()
      new, terms = one.compiled(np.int32(0), states[i], one.frozen, one.batch)
      jax.block_until_ready((new, terms))
      states[i] = new
      if turn:
        times[i].append(1e3 * (time.perf_counter() - began))
  rows = []
  for one, own in zip(steps, times, strict=True):
    ratios = np.divide(own, times[0])
    rows.append(
      {
        'config': one.name,
        'ms': float(np.median(own)),
        'ratio': float(np.median(ratios)),
        'least': float(np.min(ratios)),
        'most': float(np.max(ratios)),
        'compile_s': one.compile_s,
        'extra_params': one.extra,
        'kept_params': one.kept,
        'collective_bytes': one.exchanged,
      }
    )
  return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
  """The figures, aligned."""
  head = (
    'configuration', 'ms a step', f'ratio to {rows[0]["config"]}', 'spread',
    'compile', 'trained beside', 'kept', 'exchanged',
  )  # fmt: skip
  body = [
    (
      row['config'],
      f'{row["ms"]:.1f}',
      f'{row["ratio"]:.2f}',
      f'{row["least"]:.2f}-{row["most"]:.2f}',
      f'{row["compile_s"]:.1f} s',
      report.short(row['extra_params']),
      report.short(row['kept_params']),
      f'{row["collective_bytes"] / 1e6:.3g} MB',
    )
    for row in rows
  ]
  return report.table([head, *body])


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
