"""Where figures come from: hardware, versions and the commit."""

import importlib.metadata
import platform
import subprocess
from typing import Any

from etils import epath
import jax

from kd_jax.runtime import distributed
from kd_jax.version import __version__


def found() -> dict[str, Any]:
  """Returns the hardware, versions and commit that figures come from."""
  devices = jax.devices()
  names = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')
  return {
    'hardware': f'{len(devices)} x {devices[0].device_kind}',
    'processes': distributed.count(),
    'host': f'{platform.machine()}, {platform.system()}',
    'versions': {
      'python': platform.python_version(),
      'kd_jax': __version__,
      **{name: importlib.metadata.version(name) for name in names},
    },
    'commit': _commit(),
  }


def _commit() -> str:
  """Returns the commit of the checkout that this runs from, or 'unknown'."""
  package = epath.Path(__file__).parent.parent
  if not (package.parent / '.git').exists():
    return 'unknown'  # installed from a wheel
  describe = ['git', 'describe', '--always', '--dirty', '--abbrev=12']
  try:
    described = subprocess.run(
      describe, cwd=package, capture_output=True, text=True, check=False
    )
  except OSError:  # no git on this machine
    return 'unknown'
  return described.stdout.strip() or 'unknown'
