"""Imports all that a run needs, and says on what it runs, as one line of JSON.

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
  'optax', 'orbax.checkpoint', 'PIL.Image', 'safetensors.numpy', 'sklearn',
  'simplejpeg', 'tensorboardX', 'tensorflow_datasets.core', 'kd_jax.main',
)  # fmt: skip
# What a figure is told with, where it is installed.
_VERSIONS = ('torch', 'jax-cuda12-plugin', 'jax-cuda13-plugin')


def missing() -> dict[str, str]:
  """Returns the modules that cannot be imported, each with the reason."""
  found = {}
  for name in MODULES:
    try:
      importlib.import_module(name)
    except Exception as error:  # a package's own code may raise anything
      found[name] = f'{type(error).__name__}: {error}'.splitlines()[0]
  return found


def about() -> dict[str, object]:
  """Returns devices, versions and commit."""
  import jax

  from kd_jax.training import run

  facts = run.provenance()
  for name in _VERSIONS:
    try:
      facts['versions'][name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  commit = pathlib.Path(__file__).parents[2] / 'COMMIT'  # pack.py wrote it
  if commit.exists():
    facts['commit'] = commit.read_text('utf-8').strip()
  return {
    'platform': jax.default_backend(),
    'cores': os.cpu_count(),
    **facts,
  }


def main() -> None:
  """Prints the line, whatever else is printed meanwhile."""
  answers = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)
  absent = missing()
  print(json.dumps({'missing': absent} if absent else about()), file=answers)


if __name__ == '__main__':
  main()
