"""Measures how fast a data set streams, beside plain Pillow in one process.

python -m kd_jax.data.throughput folder:/path --image_size=224 --workers=2
"""

from collections.abc import Iterator, Sequence
import itertools
import os
import time
from typing import Any

from absl import app, flags
import numpy as np
from PIL import Image

from kd_jax import data, sharding
from kd_jax.data import augment, folder, source, stream

_WORKERS = flags.DEFINE_integer('workers', 2, 'Processes that decode.')
_SIZE = flags.DEFINE_integer('image_size', 0, "Pixels; 0 is the images' own.")
_BATCH = flags.DEFINE_integer('batch_size', 64, 'Images a batch.')
_BATCHES = flags.DEFINE_integer('batches', 20, 'Batches a repeat.')
_REPEATS = flags.DEFINE_integer('repeats', 3, 'Repeats; the median counts.')


def pillow(files: folder.Files, size: int, batch: int) -> Iterator[Any]:
  """Batches as the plainest loader makes them: one process, one file each."""
  for start in itertools.count(0, batch):
    images = []
    for i in range(start, start + batch):
      with Image.open(files.paths[i % len(files)]) as image:
        box = (0, 0, min(image.size), min(image.size))
        part = image.convert('RGB').resize(
          (size, size), Image.Resampling.BILINEAR, box=box
        )
        images.append(np.asarray(part))
    yield np.stack(images)


def streamed(opened: source.Source, workers: int, batch: int) -> Iterator[Any]:
  """Training batches of random resized crops, from the first step on."""
  images = opened.split('train')
  every = stream.Streamed(
    images,
    opened.info,
    sharding.make_mesh(1),
    workers=workers,
    batch_size=min(batch, len(images)),
    steps=10**6,
    crop_flip=augment.CropFlip(0, 'zero', True),
    area=(0.08, 1.0),
  )
  return every.feeds(0)


def rates(batches: Iterator[Any], batch: int) -> list[float]:
  """Images a second of every repeat, after a first one that is not counted."""
  found = []
  for repeat in range(_REPEATS.value + 1):
    start = time.perf_counter()
    for _ in range(_BATCHES.value):
      next(batches)
    seconds = time.perf_counter() - start
    if repeat:
      found.append(batch * _BATCHES.value / seconds)
  return found


def main(argv: Sequence[str]) -> None:
  """Prints images a second, median, least and most."""
  opened = data.open_source(argv[1], image_size=_SIZE.value)
  batch, workers = _BATCH.value, _WORKERS.value
  rows = {f'streamed, {workers} workers': streamed(opened, workers, batch)}
  files = opened.split('train')
  if isinstance(files, folder.Files):
    plain = pillow(files, opened.info.image_size, batch)
    rows['plain Pillow, 1 process'] = plain
  print(
    f'{os.cpu_count()} cores, {opened.info.image_size} pixels, batch {batch}'
  )
  for name, batches in rows.items():
    found = rates(batches, batch)
    print(
      f'{name}: {np.median(found):.0f} images/s (least {min(found):.0f}, most '
      f'{max(found):.0f}, n={len(found)})'
    )


if __name__ == '__main__':
  app.run(main)
