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
  if count != len(devices) and jax.process_count() > 1:
    raise errors.UsageError(
      f'config.mesh.data={data}: {jax.process_count()} processes use all of '
      f'their {len(devices)} devices; give -1, or start fewer processes'
    )
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
  """Host arrays, the same in all processes, as global device arrays.

  They own their memory.
  """

  def one(x):
    host = np.asarray(x)
    return jax.make_array_from_callback(
      host.shape, sharding, lambda part: np.array(host[part])
    )

  return jax.tree.map(one, tree)


def rows(mesh: Mesh, batch_size: int) -> np.ndarray:
  """The images of a global batch that lie on this process's devices, i32."""
  every = np.arange(batch_size, dtype=np.int32)
  parts = batched(mesh).addressable_devices_indices_map((batch_size,)).values()
  return np.unique(np.concatenate([every[part] for part in parts]))


def join(tree: Any, mesh: Mesh, axis: int = 0) -> Any:
  """This process's `rows` of a batch as its part of the global batch.

  Args:
    tree: host arrays whose dimension `axis` holds the rows.
    mesh: the devices.
    axis: see `tree`.

  Returns:
    What a jitted function with `batched(mesh, axis)` takes.
  """
  if jax.process_count() == 1:
    return tree  # jit splits it
  sharding = batched(mesh, axis)

  def one(x):
    own = len(sharding.addressable_devices)
    size = x.shape[axis] * mesh.size // own
    held = rows(mesh, size)

    def part(index):
      start, stop, _ = index[axis].indices(size)
      at = int(np.searchsorted(held, start))
      own_index = (*index[:axis], slice(at, at + stop - start))
      return x[own_index]

    shape = (*x.shape[:axis], size, *x.shape[axis + 1 :])
    return jax.make_array_from_callback(shape, sharding, part)

  return jax.tree.map(one, tree)
