"""Writes a small export with the installed JAX, which other versions then read.

  python -m tests.vectors.make_export

It goes to tests/vectors/exports/jax_<version>, with five images, their logits
and what the network says of them. JAX promises to read exports for six months:
an export that the newest JAX no longer reads is replaced by a younger one.
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
  place = pathlib.Path(__file__).parent / 'exports' / f'jax_{jax.__version__}'
  shutil.copytree(
    finished.places() / 'kd_out',
    place,
    ignore=shutil.ignore_patterns('test.npz', 'predict.py'),
  )
  found = restore.load(place)
  images = digits.read('test').image[:5]
  logits = np.asarray(jax.jit(found.forward)(found.weights, images))
  np.savez_compressed(
    place / 'expected.npz',
    image=images,
    logits=logits,
    label=logits.argmax(axis=-1),
  )


if __name__ == '__main__':
  main()
