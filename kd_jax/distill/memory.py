"""What a run needs of a device's memory, by the shapes that are traced."""

from collections.abc import Sequence
import math
from typing import Any

import jax
from jax.sharding import Mesh

from kd_jax import errors
from kd_jax.distill import inspect
from kd_jax.distill.parts import Parts
from kd_jax.runtime import memory


def check(traced: Sequence[inspect.Traced], mesh: Mesh) -> None:
  """Checks that parameters and optimizer state fit into the devices.

  Args:
    traced: What tracing tells of each phase.
    mesh: The devices, each of which has a copy.

  Raises:
    UsageError: They do not.
  """
  held, there = max(map(_held, traced)), _there(mesh)
  if there is not None and held > there:
    raise errors.UsageError(
      f'the parameters, the state of their optimizer and the teacher take '
      f'{size(held)}, and {_name(mesh)} has {size(there)}: take smaller '
      'networks (config.student, config.teacher, config.method_args) or a '
      'larger device'
    )


def note(parts: Parts, images: int, batches: int) -> str:
  """Returns a line if a run may not fit into the devices, else ''.

  The estimate is of the state, the teacher, a gradient, the images on the
  device and the taps of a step: what lies between the taps is not known.

  Args:
    parts: The parts of the run.
    images: The bytes of the images that stay on each device.
    batches: The parts in which a batch is computed one after the other.
  """
  there = _there(parts.mesh)
  shares = batches * parts.mesh.size
  needed = images + max(
    _held(one) + _bytes(one.state.params) + _taps(one) // shares
    for one in parts.traced
  )
  if there is None or needed <= there:
    return ''
  return (
    f'about {size(needed)} or more, and {_name(parts.mesh)} has {size(there)}: '
    'it may not fit; config.batch_size, config.accumulate_steps and '
    'config.data.device_mb change that'
  )


def size(count: float) -> str:
  """Returns bytes in words, such as '360 GB'."""
  for unit, least in (('TB', 1e12), ('GB', 1e9), ('MB', 1e6)):
    if count >= least:
      return f'{count / least:.3g} {unit}'
  return f'{count / 1e3:.3g} kB'


def _held(traced: inspect.Traced) -> int:
  return _bytes((traced.state, traced.frozen))


def _taps(traced: inspect.Traced) -> int:
  return _bytes(
    [
      {name: tap for name, tap in features.items() if name != 'params'}
      for features in traced.features.values()
    ]
  )


def _bytes(tree: Any) -> int:
  return sum(
    math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree)
  )


def _there(mesh: Mesh) -> int | None:
  """Returns the bytes that each device has; CPU devices share a machine's."""
  device = mesh.local_devices[0]
  there = memory.of_device(device)
  if there is None or device.platform != 'cpu':
    return there
  return there // len(mesh.local_devices)


def _name(mesh: Mesh) -> str:
  device = mesh.local_devices[0]
  if device.platform != 'cpu':
    return f'each {device.device_kind}'
  count = len(mesh.local_devices)
  return 'this machine' if count == 1 else f'each of {count} parts of the CPU'
