"""Compiles a training step for chips that this machine need not have.

  python -m kd_jax.benchmark.ahead kd:imagenet_r34_r18 --chips=v5e:4x4 \\
    --image_size=224 --classes=1000 --batch_size=256
  python -m kd_jax.benchmark.ahead kd fpd --chips=h100,h100:8 --dtype=bfloat16

XLA compiles for a TPU slice wherever libtpu is installed (kd_jax[tpu]), and for
an NVIDIA GPU wherever JAX's CUDA plugin is installed (kd_jax[cuda13]). This
tells whether a recipe fits, and what a step computes, moves and exchanges,
before a chip is paid for. Nothing is run, and no time is measured: "computing"
is the time that the requested arithmetic takes at the chip's published peak,
and "moving" is the time that all reads and writes of the program's operations
take at the memory's published bandwidth, as if there were no cache. For a GPU,
convolutions are not autotuned here, and the dispatch has one step where a run's
has many; with --teacher_ahead=8 it has eight, whose teacher runs once.
"""

import argparse
from collections.abc import Sequence
import functools
import json
import sys
import time
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from kd_jax import errors, features
from kd_jax.benchmark import case, chips, cost
from kd_jax.data import resident, source, stream
from kd_jax.distill import augmented, jitted
from kd_jax.runtime import command, sharding
from kd_jax.training import report


@command.reporting()
def main(argv: Sequence[str]) -> int:
  """Prints a row for each configuration on each kind of chips."""
  logging.set_verbosity(logging.ERROR)
  args = _parser().parse_args(argv)
  chips.prepare()
  rows = []
  for place in args.chips.split(','):
    chip, mesh = chips.mesh_of(place)
    sharding.check_batch(mesh, args.batch_size, '--batch_size')
    for name in args.configs:
      rows.append(row(name, place, chip, mesh, _wanted(args)))
      print(f'{name} on {place}: compiled', file=sys.stderr, flush=True)
  print(table(rows))
  print(
    f'\nbatch {args.batch_size}, {args.image_size} pixels, {args.classes} '
    f'classes, {args.images} images; jax {jax.__version__}; computing and '
    "moving are arithmetic on the chip's published peaks, not measured"
  )
  if args.json:
    with open(args.json, 'w', encoding='utf-8') as file:
      about = {'arguments': vars(args), 'jax': jax.__version__}
      json.dump({'rows': rows, **about}, file)
  return 0


def _parser() -> argparse.ArgumentParser:
  parser = command.parser('python -m kd_jax.benchmark.ahead', __doc__)
  add = parser.add_argument
  add('configs', nargs='+', help='names or files, with :recipe')
  add(
    '--chips',
    default='v5e:2x2',
    help=chips.HELP,
  )
  add('--student', help='replaces config.student.name')
  add('--teacher', help='replaces config.teacher.name')
  add('--dtype', help='replaces config.dtype')
  add('--image_size', type=int, default=32)
  add('--classes', type=int, default=100)
  add('--images', type=int, default=50000, help='of the set')
  add('--batch_size', type=int, default=64, help='over all chips')
  add('--teacher_ahead', type=int, default=1, help='steps, of one dispatch')
  add('--seeds', type=int, default=1, help='that train together')
  add('--json', help='a file for the figures')
  return parser


def _wanted(args: argparse.Namespace) -> case.Wanted:
  values: dict[str, Any] = {
    'steps_per_dispatch': args.teacher_ahead, 'devices': 1, **vars(args),
  }  # fmt: skip
  return case.Wanted(**{key: values[key] for key in case.Wanted._fields})


def row(
  name: str, place: str, chip: chips.Chip, mesh: Mesh, wanted: case.Wanted
) -> dict[str, Any]:
  """Compiles a configuration's step, and returns its figures for each chip.

  Args:
    name: The configuration, as on the command line.
    place: The chips, as on the command line: 'v5e:4x4'.
    chip: The kind of chip.
    mesh: The chips, which need not be there.
    wanted: The requested sizes and networks.

  Returns:
    The figures by name; '_s' is in seconds, '_ms' in milliseconds.

  Raises:
    UsageError: A part of the configuration does not exist or does not fit.
    RunError: XLA cannot compile the step, for example because it does not fit
      into the memory.
  """
  config = case.configured(name, wanted)
  if config.accumulate_steps != 1:  # the body of a loop is not counted
    raise errors.UsageError(
      f'{name}: config.accumulate_steps={config.accumulate_steps} cannot be '
      'counted; give 1'
    )
  exp = case.experiment(config, wanted)
  if (task := exp.method.task.name) != 'classification':
    raise errors.UsageError(
      f'{name} is for {task}, and only steps of classification are compiled '
      'ahead: give a recipe of classification'
    )
  size, batch_size = wanted.image_size, wanted.batch_size
  start = functools.partial(case.start, exp, size, batch_size)
  state, frozen = jax.eval_shape(start, jax.random.key(0))
  steps, ahead, _ = case.steps(config, exp, wanted, mesh)
  train, arrays, feeds = _train_set(config, exp, wanted)
  dispatch = jitted.train_steps(exp, train.batch, mesh, ahead)
  if wanted.seeds > 1:
    dispatch = jitted.train_steps_together(exp, train.batch, mesh, ahead)
    state = (state,) * wanted.seeds
    feeds = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct((wanted.seeds, *x.shape), x.dtype), feeds
    )
  seeds = case.first_seeds(wanted.seeds)
  began = time.perf_counter()
  traced = dispatch.trace(seeds, state, frozen, arrays, feeds)
  lowered = traced.lower()
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    raise errors.RunError(
      f'{name} on {place}: {str(error).partition(chr(10))[0]}; where it does '
      'not fit, take more chips or a smaller batch'
    ) from error
  costs = cost.of(traced, compiled, steps)
  if costs.memory_bytes is None or costs.compiled_bytes is None:
    raise errors.RunError(
      f'{name} on {place}: XLA tells nothing of its program'
    )
  count = mesh.devices.size
  flops = costs.flops / count
  return {
    'config': name,
    'chips': place,
    'count': count,
    'dtype': config.dtype,
    'seeds': wanted.seeds,
    'compile_s': time.perf_counter() - began,
    'memory_bytes': costs.memory_bytes,
    'fits': costs.memory_bytes < chip.memory,
    'flops': flops,
    'bytes': costs.compiled_bytes,
    'ahead': ahead,
    'operations': cost.operations(compiled.as_text()) / steps,
    'collective_bytes': costs.exchanged,
    'computing_ms': 1e3 * flops / chip.flops[config.dtype],
    'moving_ms': 1e3 * costs.compiled_bytes / chip.bandwidth,
  }


def _train_set(config: Any, exp: Any, wanted: case.Wanted) -> Any:
  """Returns the training split without its images, its arrays, and a feed.

  The arrays on the device and the feed are shapes and dtypes.
  """
  size, batch_size = wanted.image_size, wanted.batch_size
  names = tuple(str(number) for number in range(wanted.classes))
  info = source.Info('any', names, size, wanted.images, 0, case.MEAN, case.STD)
  single = source.Arrays(
    np.zeros((1, size, size, 3), np.uint8), np.zeros(1, np.int32)
  )
  mesh, crop_flip = sharding.make_mesh(1), case.crop_flip(config, size)
  mixed = augmented.mixed(config, wanted.classes)

  def struct(dtype, *shape):
    return jax.ShapeDtypeStruct(shape, dtype)

  steps = wanted.steps_per_dispatch
  index = struct(jnp.int32, steps, batch_size)
  if not augmented.resident(config, info, 'train'):
    image = struct(jnp.uint8, steps, batch_size, size, size, 3)
    split = stream.Streamed(
      single, info, mesh, workers=0, crop_flip=crop_flip, mixed=mixed
    )
    return split, {}, {'image': image, 'label': index, 'index': index}
  train = resident.Training(
    single, info, mesh, batch_size=1, seed=0, crop_flip=crop_flip, mixed=mixed
  )
  arrays = {
    'image': struct(jnp.uint8, wanted.images, size**2 * 3),
    'label': struct(jnp.int32, wanted.images),
  }
  if config.teacher.cache_logits:
    views = len(train.views(jnp.zeros((1, 1, 1, 3))))
    logits = struct(jnp.float32, wanted.images, views, wanted.classes)
    arrays |= {features.known(name): logits for name in exp.teachers}
  return train, arrays, {'index': index}


def _seeds(count: int) -> str:
  return f', {count} seeds' if count > 1 else ''


def table(rows: Sequence[dict[str, Any]]) -> str:
  """Returns the figures as an aligned table."""
  head = (
    'configuration', 'chips', 'dtype', 'ahead', 'compile', 'memory', 'FLOPs',
    'bytes', 'operations', 'exchanged', 'computing', 'moving',
  )  # fmt: skip
  body = []
  for figures in rows:
    memory = f'{figures["memory_bytes"] / 1e6:.4g} MB'
    body.append(
      (
        figures['config'] + _seeds(figures['seeds']),
        f'{figures["count"]} x {figures["chips"].partition(":")[0]}',
        figures['dtype'],
        str(figures['ahead']),
        f'{figures["compile_s"]:.0f} s',
        memory if figures['fits'] else f'{memory}: does not fit',
        report.short(figures['flops']),
        report.short(figures['bytes']),
        f'{figures["operations"]:.4g}',
        f'{figures["collective_bytes"] / 1e6:.3g} MB',
        f'{figures["computing_ms"]:.3g} ms',
        f'{figures["moving_ms"]:.3g} ms',
      )
    )
  return f'{report.table([head, *body])}\nof one chip and one step'


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
