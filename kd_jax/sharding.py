"""The mesh, and how arrays lie on it: batches split, all else replicated."""

from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np

from kd_jax import errors


def make_mesh(data: int = -1) -> Mesh:
  """A mesh of `data` devices (-1 for all) along the one axis 'data'.

  Raises:
    UsageError: where there are not so many devices.
  """
  devices = jax.devices()
  count = len(devices) if data == -1 else data
  if not 1 <= count <= len(devices):
    raise errors.UsageError(
      f'config.mesh.data={data}: there are {len(devices)} devices; give 1 to '
      f'{len(devices)}, or -1 for all'
    )
  return jax.make_mesh(
    (count,), ('data',), axis_types=(AxisType.Auto,), devices=devices[:count]
  )


def check_batch(mesh: Mesh, batch_size: int, key: str) -> None:
  """Raises UsageError where the mesh does not divide the global batch."""
  count = mesh.shape['data']
  if batch_size < 1 or batch_size % count:
    lower = batch_size // count * count
    near = [str(n) for n in (lower, lower + count) if n > 0]
    raise errors.UsageError(
      f'{key}={batch_size} does not divide over {count} devices; take '
      f'{" or ".join(near)}, or fewer devices (config.mesh.data)'
    )


def replicated(mesh: Mesh) -> NamedSharding:
  """The whole array on every device."""
  return NamedSharding(mesh, PartitionSpec())


def batched(mesh: Mesh, axis: int = 0) -> NamedSharding:
  """Dimension `axis` split over the mesh."""
  return NamedSharding(mesh, PartitionSpec(*(None,) * axis, 'data'))


def put(tree: Any, sharding: NamedSharding) -> Any:
  """Host arrays as global device arrays that own their memory."""
  return jax.tree.map(
    lambda x: jax.device_put(np.asarray(x), sharding, may_alias=False), tree
  )
