"""Writes a small export with the installed JAX, which later versions then read.

  python -m tests.vectors.make_export

The folder is tests/vectors/exports/jax_<version>. It also holds five images,
their logits and the network's labels for them. JAX guarantees to read exports
for six months: replace an export that the newest JAX no longer reads by a newer
one.
"""

import pathlib
import shutil

import jax
import numpy as np

from kd_jax.data.sets import digits
from kd_jax.training import restore
from tests import finished


def main():
  """Writes the folder."""
  target = pathlib.Path(__file__).parent / 'exports' / f'jax_{jax.__version__}'
  shutil.copytree(
    finished.places() / 'kd_out',
    target,
    ignore=shutil.ignore_patterns('test.npz', 'predict.py'),
  )
  restored = restore.load(target)
  images = digits.read('test').image[:5]
  logits = np.asarray(jax.jit(restored.forward)(restored.weights, images))
  np.savez_compressed(
    target / 'expected.npz',
    image=images,
    logits=logits,
    label=logits.argmax(axis=-1),
  )


if __name__ == '__main__':
  main()
