"""Measures kd_jax's training batches; see `turns.py`. Variants:

stream   `kd_jax.data.stream`: random resized crops, uint8; the device flips
         and normalises them. The name of a policy after 'stream ' has it done
         to each image, which is then flipped by the worker too; 'fast' is
         `config.data.fast_decode`
pillow   a loop over the files, which Pillow decodes and resizes as a whole; the
         plainest loader, for scale
"""

from collections.abc import Iterator
import itertools
import pathlib
from typing import Any

import numpy as np
from PIL import Image
import turns

import kd_jax
from kd_jax import data
from kd_jax.data import augment, stream, varied
from kd_jax.runtime import sharding


def streamed(given: dict[str, Any]) -> Iterator[Any]:
  """Returns batches of random resized crops, from the first step on.

  Args:
    given: See `turns.main`.
  """
  policy = given['variant'].removeprefix('stream').strip()
  fast, policy = policy == 'fast', policy.removeprefix('fast')
  crop_flip = augment.CropFlip(0, 'zero', True)
  data_set = data.open_source(given['name'], image_size=given['size'])
  images = data_set.split('train')
  training = stream.Streamed(
    images,
    data_set.info,
    sharding.make_mesh(1),
    workers=given['workers'],
    batch_size=min(given['batch'], len(images)),
    steps=10**6,
    crop_flip=None if policy else crop_flip,
    varied=varied.Varied(crop_flip, policy) if policy else None,
    area=(0.08, 1.0),
    fast=fast,
  )
  return training.feeds(0)


def plain(given: dict[str, Any]) -> Iterator[Any]:
  """Yields batches [N,size,size,3] u8 of whole images, resized to squares."""
  files = sorted(pathlib.Path(given['folder']).glob('*/*'))
  size, paths = given['size'], itertools.cycle(files)
  while True:
    images = []
    for path in itertools.islice(paths, given['batch']):
      with Image.open(path) as image:
        small = image.convert('RGB').resize(
          (size, size), Image.Resampling.BILINEAR
        )
      images.append(np.asarray(small))
    yield np.stack(images)


def make(given: dict[str, Any]) -> tuple[Iterator[Any], str]:
  """Returns a variant's batches, and the name and version of the loader."""
  if given['variant'] == 'pillow':
    return plain(given), f'Pillow {Image.__version__}'
  return streamed(given), f'kd_jax {kd_jax.__version__}'


if __name__ == '__main__':  # the stream's workers import this module too
  turns.main(make)
