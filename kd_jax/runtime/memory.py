"""How much memory a device has, as the backend or the machine says."""

from collections.abc import Iterator
import contextlib
import os
import pathlib
import resource

import jax

from kd_jax.runtime import jaxprs

_GROUPS = pathlib.Path('/sys/fs/cgroup')
_OWN = pathlib.Path('/proc/self/cgroup')


def of_device(device: jax.Device) -> int | None:
  """Returns the bytes that a device has for this process; None if unknown.

  A CPU has what the machine has, or what this process may take of it.

  Args:
    device: The device.
  """
  if device.platform != 'cpu':
    return jaxprs.memory(device).get('bytes_limit')
  return min(_of_machine(), default=None)


def _of_machine() -> Iterator[int]:
  with contextlib.suppress(OSError, ValueError):
    yield os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
  soft, _ = resource.getrlimit(resource.RLIMIT_AS)
  if soft != resource.RLIM_INFINITY:
    yield soft
  yield from _of_groups(_GROUPS, _OWN)


def _of_groups(groups: pathlib.Path, own: pathlib.Path) -> Iterator[int]:
  """Yields the limits of the control groups that this process is in.

  Args:
    groups: Where groups are mounted.
    own: The file that names those of this process: a line 'number:kinds:/path'
      for each hierarchy.
  """
  try:
    lines = own.read_text().splitlines()
  except OSError:  # no Linux
    return
  for line in lines:
    _, kinds, path = line.split(':', 2)
    if kinds not in ('', 'memory'):
      continue
    root, name = (
      groups / kinds,
      'memory.limit_in_bytes' if kinds else 'memory.max',
    )
    place = root / path.lstrip('/')
    # In a container the path may be that of outside; the root is its own.
    for group in {root, place, *place.parents} - {*root.parents}:
      with contextlib.suppress(OSError, ValueError):  # 'max' is no limit
        yield int((group / name).read_text())
