"""Imports all modules of a run and prints one line of JSON about the machine.

{"missing": {module: why}} or {"platform": ..., "hardware": ..., ...}
"""

import importlib
import importlib.metadata
import json
import os
import pathlib

# One module of each package that kd_jax needs.
MODULES = (
  'absl', 'etils.epath', 'flatbuffers', 'flax.linen', 'grain',
  'importlib_resources', 'jax', 'matplotlib', 'ml_collections', 'numpy',
  'optax', 'orbax.checkpoint', 'PIL.Image', 'safetensors.numpy', 'scipy',
  'sklearn',
  'simplejpeg', 'tensorboardX', 'tensorflow_datasets.core',
  'threadpoolctl', 'kd_jax.main',
)  # fmt: skip
# Versions that figures are reported with, of packages that are installed.
_VERSIONS = ('torch', 'jax-cuda12-plugin', 'jax-cuda13-plugin')


def missing() -> dict[str, str]:
  """Returns the modules that cannot be imported, each with the reason."""
  reasons = {}
  for name in MODULES:
    try:
      importlib.import_module(name)
    except Exception as error:  # a package's own code may raise anything
      reasons[name] = f'{type(error).__name__}: {error}'.splitlines()[0]
  return reasons


def about() -> dict[str, object]:
  """Returns the devices, the versions and the commit."""
  import jax

  from kd_jax.training import provenance

  facts = provenance.found()
  for name in _VERSIONS:
    try:
      facts['versions'][name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  commit = pathlib.Path(__file__).parents[2] / 'COMMIT'  # from pack.py
  if commit.exists():
    facts['commit'] = commit.read_text('utf-8').strip()
  return {
    'platform': jax.default_backend(),
    'cores': os.cpu_count(),
    **facts,
  }


def main() -> None:
  """Prints the line alone on standard output; other prints go to stderr."""
  answers = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)
  absent = missing()
  print(json.dumps({'missing': absent} if absent else about()), file=answers)


if __name__ == '__main__':
  main()
