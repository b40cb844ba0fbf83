"""The device mesh; batches are split over it, other arrays replicated."""

from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np

from kd_jax import errors


def make_mesh(data: int = -1) -> Mesh:
  """Returns a mesh of devices with a single axis, 'data'.

  Args:
    data: The number of devices; -1 takes all.

  Raises:
    UsageError: There are fewer devices, or several processes were to use a
      part of them.
  """
  devices = jax.devices()
  count = len(devices) if data == -1 else data
  if count != len(devices) and jax.process_count() > 1:
    raise errors.ArgumentError(
      f'data={data}: {jax.process_count()} processes use all of '
      f'their {len(devices)} devices; give -1, or start fewer processes'
    )
  if not 1 <= count <= len(devices):
    raise errors.ArgumentError(
      f'data={data}: there are {len(devices)} devices; give 1 to '
      f'{len(devices)}, or -1 for all'
    )
  return jax.make_mesh(
    (count,), ('data',), axis_types=(AxisType.Auto,), devices=devices[:count]
  )


def check_batch(mesh: Mesh, batch_size: int, key: str) -> None:
  """Checks that a global batch divides evenly over the mesh.

  Args:
    mesh: The mesh.
    batch_size: The number of images in the global batch.
    key: What the batch size is called in the error.

  Raises:
    UsageError: The batch does not divide evenly.
  """
  count = mesh.shape['data']
  if batch_size < 1 or batch_size % count:
    lower = batch_size // count * count
    valid_sizes = [str(n) for n in (lower, lower + count) if n > 0]
    raise errors.UsageError(
      f'{key}={batch_size} does not divide over {count} devices; take '
      f'{" or ".join(valid_sizes)}, or a mesh of fewer devices'
    )


def replicated(mesh: Mesh) -> NamedSharding:
  """Returns the sharding that puts a whole array on every device."""
  return NamedSharding(mesh, PartitionSpec())


def batched(mesh: Mesh, axis: int = 0) -> NamedSharding:
  """Returns the sharding that splits dimension `axis` over the mesh."""
  return NamedSharding(mesh, PartitionSpec(*(None,) * axis, 'data'))


def put(tree: Any, sharding: NamedSharding) -> Any:
  """Returns host arrays as global device arrays, which own their memory.

  Args:
    tree: A pytree of host arrays, equal in all processes.
    sharding: The sharding of every array.
  """

  def one(x):
    host = np.asarray(x)
    return jax.make_array_from_callback(
      host.shape, sharding, lambda part: np.array(host[part])
    )

  return jax.tree.map(one, tree)


def rows(mesh: Mesh, batch_size: int) -> np.ndarray:
  """Returns the rows of a global batch on this process's devices, [n] i32.

  Args:
    mesh: The mesh.
    batch_size: The number of images in the global batch.
  """
  indices = np.arange(batch_size, dtype=np.int32)
  parts = batched(mesh).addressable_devices_indices_map((batch_size,)).values()
  return np.unique(np.concatenate([indices[part] for part in parts]))


def join(tree: Any, mesh: Mesh, axis: int = 0) -> Any:
  """Returns a global batch, of which each process supplies its own rows.

  Args:
    tree: A pytree of host arrays, whose dimension `axis` has the `rows` of
      this process.
    mesh: The mesh.
    axis: The dimension of the rows.

  Returns:
    Arrays for a jitted function whose inputs have the sharding
    `batched(mesh, axis)`: global arrays, or `tree` itself if there is only one
    process.
  """
  if jax.process_count() == 1:
    return tree  # jit shards it
  sharding = batched(mesh, axis)

  def one(x):
    local_devices = len(sharding.addressable_devices)
    size = x.shape[axis] * mesh.size // local_devices
    local_rows = rows(mesh, size)

    def part(index):
      start, stop, _ = index[axis].indices(size)
      first = int(np.searchsorted(local_rows, start))
      local_index = (*index[:axis], slice(first, first + stop - start))
      return x[local_index]

    shape = (*x.shape[:axis], size, *x.shape[axis + 1 :])
    return jax.make_array_from_callback(shape, sharding, part)

  return jax.tree.map(one, tree)
