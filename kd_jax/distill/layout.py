"""How batches are cut and joined, so that no image changes its device."""

from typing import Any

import jax
import jax.numpy as jnp


def split(batch: Any, count: int) -> Any:
  """Returns arrays [N,...] as [count,N/count,...].

  Every part is spread over all devices.

  Args:
    batch: The arrays of a batch, which devices share by their rows.
    count: The number of parts.
  """

  def parts(x):
    rows = x.reshape(x.shape[0] // count, count, *x.shape[1:])
    return jnp.swapaxes(rows, 0, 1)

  return jax.tree.map(parts, batch)


def join(batches: Any, devices: int) -> Any:
  """Returns the arrays of k batches, [k,N,...] each, as [k*N,...].

  The rows of a device stay together.

  Args:
    batches: The arrays, of which devices share the rows of every batch.
    devices: The number of devices.
  """

  def rows(x):
    k, n = x.shape[:2]
    parts = x.reshape(k, devices, n // devices, *x.shape[2:])
    return parts.swapaxes(0, 1).reshape(k * n, *x.shape[2:])

  return jax.tree.map(rows, batches)


def part(joined: Any, k: int, devices: int) -> Any:
  """Returns arrays [k*N,...] as [k,N,...]: the inverse of `join`."""

  def batches(x):
    n = x.shape[0] // k
    parts = x.reshape(devices, k, n // devices, *x.shape[1:])
    return parts.swapaxes(0, 1).reshape(k, n, *x.shape[1:])

  return jax.tree.map(batches, joined)
