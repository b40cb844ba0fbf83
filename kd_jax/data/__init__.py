"""Data sets by name."""

from collections.abc import Callable

import numpy as np

from kd_jax import errors
from kd_jax.data import digits, source

SOURCES: dict[str, Callable[[], source.Source]] = {
  'digits': digits.open_source,
}

# Decides which images `train_size` keeps, whatever the seed of the run.
SUBSET_SEED = 0


def open_source(name: str, train_size: int = 0) -> source.Source:
  """Opens a data set; its images are read by the source's `load`.

  Args:
    name: one of `SOURCES`.
    train_size: how many training images to keep, a fixed stratified subset; 0
      keeps all.

  Raises:
    UsageError: for an unknown name or an impossible size.
  """
  if name not in SOURCES:
    raise errors.unknown('data set', name, SOURCES)
  whole = SOURCES[name]()
  if not train_size:
    return whole
  least, most = len(whole.info.class_names), whole.info.num_train
  if not least <= train_size <= most:
    raise errors.UsageError(
      f'config.data.train_size={train_size}: {name} has {most} training '
      f'images of {least} classes; give {least} to {most}, or 0 for all'
    )

  def load(split: str) -> source.Split:
    images, labels = whole.load(split)
    if split != 'train':
      return source.Split(images, labels)
    keep = source.stratified(labels, train_size, SUBSET_SEED)
    return source.Split(images[keep], np.asarray(labels)[keep])

  return source.Source(whole.info._replace(num_train=train_size), load)
