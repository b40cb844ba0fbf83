"""Export for TensorFlow and TFLite (`kd_jax[tensorflow]`).

TensorFlow is imported by a process of its own alone; see `tensorflow_script`.
"""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import jax

from kd_jax import errors

_SCRIPT = pathlib.Path(__file__).with_name('tensorflow_script.py')
_MISSING = 3  # the script's exit code without TensorFlow
# The first version of JAX whose programs TensorFlow 2.21 does not convert; see
# kd_jax[tensorflow].
UNREAD = (0, 11)
# The allowed difference of logits in parts of the largest, by the end of a
# file's name: rounding of float32, and of kernels to 8 bits.
BOUNDS = {'int8.tflite': 0.25, '': 1e-4}


def check(facts: dict[str, Any]) -> None:
  """Checks that a network can be written for TensorFlow.

  Args:
    facts: The facts of network.json.

  Raises:
    UsageError: TensorFlow is not installed or does not convert what this JAX
      writes, or the network is no classifier, or does not compute in float32.
  """
  if importlib.util.find_spec('tensorflow') is None:
    raise errors.UsageError(
      "--tensorflow needs TensorFlow: pip install 'kd_jax[tensorflow]'"
    )
  if jax.__version_info__ >= UNREAD:
    unread = '.'.join(map(str, UNREAD))
    raise errors.UsageError(
      f'--tensorflow: TensorFlow 2.21 does not convert what jax '
      f"{jax.__version__} writes: pip install 'jax<{unread}', and export the "
      'run with that'
    )
  if task := facts.get('task'):
    raise errors.UsageError(
      f'--tensorflow is for classification, and this is for {task}: leave it '
      'out'
    )
  if facts['dtype'] != 'float32':
    raise errors.UsageError(
      f'--tensorflow: the network computes in {facts["dtype"]}, and only '
      'float32 is written: leave it out'
    )


def write(folder: pathlib.Path) -> dict[str, float]:
  """Writes a SavedModel and two TFLite files into the folder of an export.

  Args:
    folder: The folder, which holds what `artifact.write` writes.

  Returns:
    By name of a file, its largest difference from the logits of JAX on random
    images, in parts of the largest logit.

  Raises:
    UsageError: TensorFlow cannot be imported.
    RunError: TensorFlow cannot convert the network, or computes other logits.
  """
  ended = subprocess.run(
    [sys.executable, _SCRIPT, folder],
    capture_output=True,
    text=True,
    env={**os.environ, 'JAX_PLATFORMS': 'cpu', 'CUDA_VISIBLE_DEVICES': ''},
    check=False,
  )
  last = (ended.stderr.strip().split('\n') or [''])[-1]
  if ended.returncode == _MISSING:
    raise errors.UsageError(
      f"--tensorflow: pip install 'kd_jax[tensorflow]' again: {last}"
    )
  if ended.returncode:
    raise errors.RunError(f'--tensorflow: the conversion failed: {last}')
  far = json.loads(ended.stdout.strip().split('\n')[-1])
  for name, value in far.items():
    bound = next(b for end, b in BOUNDS.items() if name.endswith(end))
    if not value <= bound:
      raise errors.RunError(
        f'--tensorflow: the logits of {name} differ from those of JAX by '
        f'{value:.2g} of the largest, more than {bound:g}; nothing was written'
      )
  return far
