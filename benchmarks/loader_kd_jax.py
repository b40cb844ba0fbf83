"""Training batches as kd_jax streams them; see `turns.py`. Variants:

stream   `kd_jax.data.stream`: random resized crops, uint8; the device flips
         and normalises them
pillow   a loop over the files: Pillow decodes and resizes each whole; the
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
from kd_jax.data import augment, stream
from kd_jax.runtime import sharding


def streamed(given: dict[str, Any]) -> Iterator[Any]:
  """Random resized crops, from the first step on."""
  opened = data.open_source(given['name'], image_size=given['size'])
  images = opened.split('train')
  every = stream.Streamed(
    images,
    opened.info,
    sharding.make_mesh(1),
    workers=given['workers'],
    batch_size=min(given['batch'], len(images)),
    steps=10**6,
    crop_flip=augment.CropFlip(0, 'zero', True),
    area=(0.08, 1.0),
  )
  return every.feeds(0)


def plain(given: dict[str, Any]) -> Iterator[Any]:
  """Whole images, squeezed."""
  files = sorted(pathlib.Path(given['folder']).glob('*/*'))
  size, every = given['size'], itertools.cycle(files)
  while True:
    images = []
    for file in itertools.islice(every, given['batch']):
      with Image.open(file) as image:
        small = image.convert('RGB').resize(
          (size, size), Image.Resampling.BILINEAR
        )
      images.append(np.asarray(small))
    yield np.stack(images)


def make(given: dict[str, Any]) -> tuple[Iterator[Any], str]:
  """Batches, and what makes them."""
  if given['variant'] == 'pillow':
    return plain(given), f'Pillow {Image.__version__}'
  return streamed(given), f'kd_jax {kd_jax.__version__}'


if __name__ == '__main__':  # the workers import it too
  turns.main(make)
