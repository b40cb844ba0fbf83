"""The chips that XLA compiles for on a machine that has none of them.

XLA compiles for a TPU slice wherever libtpu is installed (kd_jax[tpu]), and for
an NVIDIA GPU wherever JAX's CUDA plugin is installed (kd_jax[cuda13] or
kd_jax[cuda12]), with ptxas and libdevice of the CUDA toolkit. No driver is
needed.
"""

import importlib.util
import os
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh

from kd_jax import errors


class Chip(NamedTuple):
  """The peak figures of a chip, as its maker publishes them.

  Attributes:
    platform: 'tpu' or 'cuda'.
    flops: Dense FLOP/s by dtype. For float32 it is the rate of JAX's default
      matrix products: one pass of bfloat16 on a TPU, TF32 on a GPU.
    bandwidth: The memory's bandwidth in bytes per second.
    memory: The memory's size in bytes.
    few: A small topology, which is the default.
    about: The description of a GPU for XLA: the fields of its
      GpuDeviceInfoProto. None for a TPU.
  """

  platform: str
  flops: dict[str, float]
  bandwidth: float
  memory: float
  few: str
  about: dict[str, Any] | None = None


def _tpu(tera: float, bandwidth: float, gibi: float, few: str) -> Chip:
  flops = {'float32': tera * 1e12, 'bfloat16': tera * 1e12}
  return Chip('tpu', flops, bandwidth, gibi * 2**30, few)


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
HELP = (
  f'of {", ".join(CHIPS)}; a TPU with its topology, v5e:4x4, a GPU with how '
  'many, h100:8; or several with commas between'
)
_PLUGINS = {
  'tpu': ('libtpu',),
  'cuda': ('jax_cuda13_plugin', 'jax_cuda12_plugin'),
}
_EXTRAS = {'tpu': 'tpu', 'cuda': 'cuda13'}


def prepare() -> None:
  """Makes the settings that compiling needs.

  It must be called before JAX starts.
  """
  jax.config.update('jax_platforms', 'cpu')
  os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')  # this is no TPU VM
  os.environ.setdefault('TPU_WORKER_HOSTNAMES', 'localhost')
  os.environ.setdefault('TPU_ACCELERATOR_TYPE', 'v5litepod-4')
  os.environ.setdefault('TPU_STDERR_LOG_LEVEL', '3')
  os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')  # none is opened
  flags = os.environ.get('XLA_FLAGS', '')
  if 'xla_gpu_autotune_level' not in flags:
    os.environ['XLA_FLAGS'] = f'{flags} --xla_gpu_autotune_level=0'.strip()


def mesh_of(place: str) -> tuple[Chip, Mesh]:
  """Returns the kind of chip and the mesh of 'v5e:4x4' or 'h100:8'.

  Raises:
    UsageError: The kind or the topology is unknown, or XLA's compiler for it is
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
      f"'kd_jax[{_EXTRAS[chip.platform]}]'"
    )
  try:
    if chip.about is None:
      description = topologies.get_topology_desc(
        platform='tpu', topology_name=f'{kind}:{topology or chip.few}'
      )
    else:
      description = topologies.get_topology_desc(
        platform='cuda',
        topology=f'1x1x{int(topology or chip.few)}',
        target_config=_target(kind, chip.about),
      )
  except (RuntimeError, ValueError) as error:
    reason = str(error).partition('\n')[0]
    raise errors.UsageError(
      f'--chips={place}: {reason}; give it as {kind}:{chip.few}'
    ) from error
  devices = description.devices
  return chip, jax.make_mesh(
    (len(devices),), ('data',), axis_types=(AxisType.Auto,), devices=devices
  )


def _target(kind: str, about: dict[str, Any]) -> str:
  """Returns XLA's GpuTargetConfigProto as text."""
  fields = ' '.join(f'{key}: {value}' for key, value in about.items())
  return (
    f'gpu_device_info {{ {fields} cuda_compute_capability {{ major: 9 }} }} '
    'platform_name: "CUDA" dnn_version_info { major: 9 minor: 8 } '
    'runtime_version { major: 12 minor: 9 } '
    f'device_description_str: "{kind}"'
  )
