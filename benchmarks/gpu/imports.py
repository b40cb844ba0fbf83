"""Imports all modules of a run and prints one line of JSON about the machine.

{"missing": {module: why}}, {"wrong": what an option of run.py names that is not
there} or {"platform": ..., "hardware": ..., ...}
"""

from collections.abc import Mapping
import importlib
import importlib.metadata
import json
import os
import pathlib
import sys
from typing import Any

# One module of each package that kd_jax needs.
MODULES = (
  'absl', 'etils.epath', 'flatbuffers', 'flax.linen', 'grain',
  'importlib_resources', 'jax', 'matplotlib', 'ml_collections', 'numpy',
  'optax', 'orbax.checkpoint', 'PIL.Image', 'safetensors.numpy', 'scipy',
  'sklearn',
  'simplejpeg', 'tensorboardX', 'tensorflow_datasets.core',
  'threadpoolctl', 'kd_jax.main',
)  # fmt: skip
# Of data that are not opened to look at the options of a run on them.
_CLASSES, _IMAGE_SIZE = 100, 32
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


def wrong(options: Mapping[str, Any]) -> str:
  """Returns what options of run.py name that is not there; '' if all is.

  A part would say so too, but only once its time has begun.

  Args:
    options: The options.
  """
  import rows

  from kd_jax import errors, models
  from kd_jax.cli import configured
  from kd_jax.distill import build

  parts = options['parts']
  try:
    if 'table' in parts:
      rows.chosen(options)
      for role in ('student', 'teacher'):
        if options[role]:
          models.make(options[role], 10)
    if 'check' in parts:
      configured.load(options['check_config'], ())
    if 'train' in parts:
      config = configured.load(options['recipe'], options['train_arg'])
      build.check(config, _CLASSES, config.data.image_size or _IMAGE_SIZE)
  except errors.UsageError as error:
    return str(error)
  return ''


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
  answer: dict[str, object] = {}
  if absent := missing():
    answer = {'missing': absent}
  elif why := wrong(json.loads(sys.argv[1])):
    answer = {'wrong': why}
  print(json.dumps(answer or about()), file=answers)


if __name__ == '__main__':
  main()
