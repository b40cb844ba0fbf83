"""The 1,797 real handwritten digits of 8x8 pixels embedded in scikit-learn.

Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI
Machine Learning Repository, 1998 (its test set, CC BY 4.0), as
`sklearn.datasets.load_digits` ships it.
"""

import importlib.metadata

import numpy as np

from kd_jax.data import source

# The mean and standard deviation of the training split's pixels.
INFO = source.Info(
  name='digits',
  class_names=tuple('0123456789'),
  image_size=8,
  num_train=1437,
  num_test=360,
  mean=(0.3053,) * 3,
  std=(0.3759,) * 3,
)


def open_source() -> source.Source:
  """Returns the data set with a fixed stratified split.

  It has 1,437 training and 360 test images.
  """
  return source.Source(INFO, read)


def read(split: str) -> source.Arrays:
  """Returns the split 'train' or 'test'; grey levels 0..16 become 0..255."""
  table = _table()
  images, labels = (
    table[:, :-1].reshape(-1, 8, 8),
    table[:, -1].astype(np.int32),
  )
  test = source.stratified(labels, INFO.num_test, seed=0)
  train = np.setdiff1d(np.arange(len(labels)), test)
  chosen = {'train': train, 'test': test}[split]
  grey = np.round(images[chosen] * (255 / 16)).astype(np.uint8)
  return source.Arrays(np.repeat(grey[..., None], 3, axis=-1), labels[chosen])


def _table() -> np.ndarray:
  """Returns 64 pixels and a label for every image, [1797,65] f64.

  The file is read without importing scikit-learn, which would take longer than
  everything else at the start of a run.
  """
  path = 'sklearn/datasets/data/digits.csv.gz'
  file = importlib.metadata.distribution('scikit-learn').locate_file(path)
  return np.loadtxt(str(file), delimiter=',')
