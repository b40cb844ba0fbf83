"""Compiles a training step for chips that this machine need not have.

  python -m kd_jax.benchmark.ahead kd:imagenet_r34_r18 --chips=v5e:4x4 \\
    --image_size=224 --classes=1000 --batch_size=256
  python -m kd_jax.benchmark.ahead kd fpd --chips=h100,h100:8 --dtype=bfloat16

XLA compiles for a TPU slice wherever libtpu is installed (kd_jax[tpu]), and for
an NVIDIA GPU wherever JAX's CUDA plugin is (kd_jax[cuda]): whether a recipe
fits, and what a step computes, moves and exchanges, is known before a chip is
paid for. Nothing is run, and no time is measured: "computing" is what the asked
arithmetic takes at the chip's published peak, "moving" what all that the
program's operations read and write takes at its memory's, as if nothing were
found in a cache. On a GPU no convolution is autotuned here, and the dispatch
has one step where a run has many.
"""

import argparse
from collections.abc import Sequence
import functools
import importlib.util
import json
import os
import sys
import time
from typing import Any, NamedTuple

from absl import logging
import jax
from jax.experimental import topologies
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh
import numpy as np

from kd_jax import build, command, errors, features, report, sharding
from kd_jax.benchmark import case, cost
from kd_jax.data import resident, source, stream


class Chip(NamedTuple):
  """What a chip can do at most, as its maker says.

  Attributes:
    platform: 'tpu' or 'cuda'.
    flops: a second, dense, by dtype: float32 as JAX multiplies it by default,
      in one pass of bfloat16 on a TPU and in TF32 on a GPU.
    bandwidth: of its memory, bytes a second.
    memory: bytes.
    few: a small topology.
    about: a GPU for XLA, as the fields of its GpuDeviceInfoProto.
  """

  platform: str
  flops: dict[str, float]
  bandwidth: float
  memory: float
  few: str
  about: dict[str, Any] | None = None


def _tpu(tera: float, bandwidth: float, gibi: float, few: str) -> Chip:
  both = {'float32': tera * 1e12, 'bfloat16': tera * 1e12}
  return Chip('tpu', both, bandwidth, gibi * 2**30, few)


# Google's and NVIDIA's data sheets.
CHIPS = {
  'v4': _tpu(275, 1.228e12, 32, '2x2x1'),
  'v5e': _tpu(197, 0.819e12, 16, '2x2'),
  'v5p': _tpu(459, 2.765e12, 95, '2x2x1'),
  'v6e': _tpu(918, 1.640e12, 32, '2x2'),
  'h100': Chip(
    'cuda',
    {'float32': 495e12, 'bfloat16': 989e12},
    3.352e12,
    80e9,
    '1',
    {
      'threads_per_block_limit': 1024,
      'threads_per_warp': 32,
      'shared_memory_per_block': 49152,
      'shared_memory_per_core': 233472,
      'shared_memory_per_block_optin': 232448,
      'threads_per_core_limit': 2048,
      'core_count': 132,
      'fpus_per_core': 128,
      'block_dim_limit_x': 2**31 - 1,
      'block_dim_limit_y': 65535,
      'block_dim_limit_z': 65535,
      'memory_bandwidth': 3_352_320_000_000,
      'l2_cache_size': 50 * 2**20,
      'clock_rate_ghz': 1.98,
      'device_memory_size': 84_929_347_584,
      'registers_per_core_limit': 65536,
      'registers_per_block_limit': 65536,
    },
  ),
}
_PLUGINS = {
  'tpu': ('libtpu',),
  'cuda': ('jax_cuda12_plugin', 'jax_cuda13_plugin'),
}


@command.reporting()
def main(argv: Sequence[str]) -> int:
  """Prints a row for each configuration on each kind of chips."""
  logging.set_verbosity(logging.ERROR)
  args = _parser().parse_args(argv)
  _quiet()
  rows = []
  for place in args.chips.split(','):
    chip, mesh = chips(place)
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
  parser = command.parser('kd_jax.benchmark.ahead', __doc__)
  add = parser.add_argument
  add('configs', nargs='+', help='names or files, with :recipe')
  add(
    '--chips',
    default='v5e:2x2',
    help=f'of {", ".join(CHIPS)}; a TPU with its topology, v5e:4x4, a GPU with '
    'how many, h100:8; or several with commas between',
  )
  add('--student', help='replaces config.student.name')
  add('--teacher', help='replaces config.teacher.name')
  add('--dtype', help='replaces config.dtype')
  add('--image_size', type=int, default=32)
  add('--classes', type=int, default=100)
  add('--images', type=int, default=50000, help='of the set')
  add('--batch_size', type=int, default=64, help='over all chips')
  add('--json', help='a file for the figures')
  return parser


def _wanted(args: argparse.Namespace) -> case.Wanted:
  given: dict[str, Any] = {'steps_per_dispatch': 1, 'devices': 1, **vars(args)}
  return case.Wanted(**{key: given[key] for key in case.Wanted._fields})


def _quiet() -> None:
  """The settings that compiling without the chips needs."""
  jax.config.update('jax_platforms', 'cpu')
  os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')  # not on a TPU VM
  os.environ.setdefault('TPU_WORKER_HOSTNAMES', 'localhost')
  os.environ.setdefault('TPU_ACCELERATOR_TYPE', 'v5litepod-4')
  os.environ.setdefault('TPU_STDERR_LOG_LEVEL', '3')
  flags = os.environ.get('XLA_FLAGS', '')
  if 'xla_gpu_autotune_level' not in flags:
    os.environ['XLA_FLAGS'] = f'{flags} --xla_gpu_autotune_level=0'.strip()


def chips(place: str) -> tuple[Chip, Mesh]:
  """The kind and the mesh of 'v5e:4x4' or 'h100:8'.

  Raises:
    UsageError: for an unknown kind or topology; where XLA's compiler for it is
      not installed.
  """
  kind, _, topology = place.partition(':')
  if kind not in CHIPS:
    raise errors.unknown('value of --chips:', kind, CHIPS)
  chip = CHIPS[kind]
  if not any(
    importlib.util.find_spec(name) for name in _PLUGINS[chip.platform]
  ):
    raise errors.UsageError(
      f"--chips={place} needs XLA's compiler for it: pip install "
      f"'kd_jax[{chip.platform}]'"
    )
  try:
    if chip.about is None:
      found = topologies.get_topology_desc(
        platform='tpu', topology_name=f'{kind}:{topology or chip.few}'
      )
    else:
      found = topologies.get_topology_desc(
        platform='cuda',
        topology=f'1x1x{int(topology or chip.few)}',
        target_config=_target(kind, chip.about),
      )
  except (RuntimeError, ValueError) as error:
    why = str(error).partition('\n')[0]
    raise errors.UsageError(
      f'--chips={place}: {why}; give it as {kind}:{chip.few}'
    ) from error
  devices = found.devices
  return chip, jax.make_mesh(
    (len(devices),), ('data',), axis_types=(AxisType.Auto,), devices=devices
  )


def _target(kind: str, about: dict[str, Any]) -> str:
  """XLA's GpuTargetConfigProto, as text."""
  fields = ' '.join(f'{key}: {value}' for key, value in about.items())
  return (
    f'gpu_device_info {{ {fields} cuda_compute_capability {{ major: 9 }} }} '
    'platform_name: "CUDA" dnn_version_info { major: 9 minor: 8 } '
    'runtime_version { major: 12 minor: 9 } '
    f'device_description_str: "{kind}"'
  )


def row(
  name: str, place: str, chip: Chip, mesh: Mesh, wanted: case.Wanted
) -> dict[str, Any]:
  """Compiles a configuration's step; its figures, for each chip.

  Raises:
    UsageError: for what does not exist or does not fit together.
    RunError: where XLA cannot compile it, as where it does not fit the memory.
  """
  config = case.configured(name, wanted)
  if config.accumulate_steps != 1:  # a loop, whose body is not counted
    raise errors.UsageError(
      f'{name}: config.accumulate_steps={config.accumulate_steps} cannot be '
      'counted; give 1'
    )
  exp = case.experiment(config, wanted)
  size, batch_size = wanted.image_size, wanted.batch_size
  start = functools.partial(case.start, exp, size, batch_size)
  state, frozen = jax.eval_shape(start, jax.random.key(0))
  train, arrays, feeds = _train_set(config, exp, wanted)
  given = (jax.ShapeDtypeStruct((), jnp.int32), state, frozen, arrays, feeds)
  began = time.perf_counter()
  traced = case.jitted(exp, train, mesh).trace(*given)
  lowered = traced.lower()
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    raise errors.RunError(
      f'{name} on {place}: {str(error).partition(chr(10))[0]}; where it does '
      'not fit, take more chips or a smaller batch'
    ) from error
  found = cost.of(traced, compiled)
  if found.memory_bytes is None or found.compiled_bytes is None:
    raise errors.RunError(
      f'{name} on {place}: XLA tells nothing of its program'
    )
  count = mesh.devices.size
  flops = found.flops / count
  return {
    'config': name,
    'chips': place,
    'count': count,
    'dtype': config.dtype,
    'compile_s': time.perf_counter() - began,
    'memory_bytes': found.memory_bytes,
    'fits': found.memory_bytes < chip.memory,
    'flops': flops,
    'bytes': found.compiled_bytes,
    'operations': cost.operations(compiled.as_text()),
    'collective_bytes': found.exchanged,
    'computing_ms': 1e3 * flops / chip.flops[config.dtype],
    'moving_ms': 1e3 * found.compiled_bytes / chip.bandwidth,
  }


def _train_set(config: Any, exp: Any, wanted: case.Wanted) -> Any:
  """The set without its images, what lies on the device, and a feed."""
  size, batch_size = wanted.image_size, wanted.batch_size
  names = tuple(str(k) for k in range(wanted.classes))
  info = source.Info('any', names, size, wanted.images, 0, case.MEAN, case.STD)
  one = source.Arrays(
    np.zeros((1, size, size, 3), np.uint8), np.zeros(1, np.int32)
  )
  mesh, how = sharding.make_mesh(1), case.crop_flip(config, size)

  def struct(dtype, *shape):
    return jax.ShapeDtypeStruct(shape, dtype)

  index = struct(jnp.int32, 1, batch_size)
  streamed = config.data.augment == 'random_resized_crop'
  if streamed or not build.resident(config, info, 'train'):
    image = struct(jnp.uint8, 1, batch_size, size, size, 3)
    set_ = stream.Streamed(one, info, mesh, workers=0, crop_flip=how)
    return set_, {}, {'image': image, 'label': index, 'index': index}
  train = resident.Training(
    one, info, mesh, batch_size=1, seed=0, crop_flip=how
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


def table(rows: Sequence[dict[str, Any]]) -> str:
  """The figures, aligned."""
  head = (
    'configuration', 'chips', 'dtype', 'compile', 'memory', 'FLOPs', 'bytes',
    'operations', 'exchanged', 'computing', 'moving',
  )  # fmt: skip
  body = []
  for each in rows:
    memory = f'{each["memory_bytes"] / 1e6:.4g} MB'
    body.append(
      (
        each['config'],
        f'{each["count"]} x {each["chips"].partition(":")[0]}',
        each['dtype'],
        f'{each["compile_s"]:.0f} s',
        memory if each['fits'] else f'{memory}: does not fit',
        report.short(each['flops']),
        report.short(each['bytes']),
        str(each['operations']),
        f'{each["collective_bytes"] / 1e6:.3g} MB',
        f'{each["computing_ms"]:.3g} ms',
        f'{each["moving_ms"]:.3g} ms',
      )
    )
  return f'{report.table([head, *body])}\nof one chip and one step'


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
