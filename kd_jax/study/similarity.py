"""How alike two networks are on the same images: NumPy, in float64."""

from collections.abc import Mapping
import math

import numpy as np

# The unbiased estimate divides by N - 3.
LEAST_IMAGES = 4


def correlation(logits: np.ndarray) -> np.ndarray:
  """Returns the correlation of each pair of classes over images, [K,K] f64.

  It is Pearson's correlation of the two columns of logits. CRD's paper shows
  the difference of two such matrices, of a teacher's and a student's logits.

  Args:
    logits: Logits [N,K] of N images.

  Returns:
    The matrix; NaN in the row and column of a class whose logit is the same for
    all images.

  Source: Tian et al., "Contrastive Representation Distillation", ICLR 2020.
  """
  x = _centred(logits)
  norms = np.linalg.norm(x, axis=0)
  x = x / np.where(norms > 0, norms, np.nan)
  return np.clip(x.T @ x, -1, 1)


def _centred(features: np.ndarray) -> np.ndarray:
  """Returns features [N,D] f64 less their mean over images; constants are 0."""
  values = np.asarray(features, np.float64).reshape(len(features), -1)
  x = values - values.mean(axis=0)
  # What rounding leaves of a constant is no deviation.
  constant = np.abs(x).max(axis=0) <= 1e-12 * np.abs(values).max(axis=0)
  x[:, constant] = 0
  return x


def confusion(
  labels: np.ndarray, predicted: np.ndarray, classes: int
) -> np.ndarray:
  """Returns the number of images by label and prediction, [K,K] i64.

  Args:
    labels: The class of each image, [N] i32: the rows of the result.
    predicted: The predicted class of each image, [N]: the columns.
    classes: K.
  """
  cells = np.asarray(labels, np.int64) * classes + predicted
  counts = np.bincount(cells, minlength=classes * classes)
  return counts.reshape(classes, classes)


def centred_gram(features: np.ndarray) -> np.ndarray:
  """Returns the U-centred matrix of the images' inner products, [N,N] f64.

  Its diagonal is 0 and all rows and columns add up to 0. The mean product of
  the entries of two such matrices, over the N(N-3) that count, is the unbiased
  estimate of HSIC with linear kernels. It does not change where the same is
  added to the features of every image.

  Args:
    features: The features of N >= 4 images, [N,...], which are flattened.

  Source: Song et al., "Feature Selection via Dependence Maximization", JMLR
  2012.
  """
  x = _centred(features)
  gram = x @ x.T
  np.fill_diagonal(gram, 0)
  count = len(gram)
  sums = gram.sum(axis=0)
  gram -= sums / (count - 2)
  gram -= sums[:, None] / (count - 2)
  gram += sums.sum() / ((count - 1) * (count - 2))
  np.fill_diagonal(gram, 0)
  return gram


class Cka:
  """Linear CKA between the taps of two networks, batch by batch.

  CKA is HSIC(x, y) / sqrt(HSIC(x, x) HSIC(y, y)). Each HSIC is the unbiased
  estimate of a batch, averaged over batches, weighted by their images. The
  plain one of Kornblith et al. tends to 1 where features have more dimensions
  than there are images, as feature maps do. It needs all images at once, too.

  Source: Kornblith et al., "Similarity of Neural Network Representations
  Revisited", ICML 2019; Nguyen et al., "Do Wide and Deep Networks Learn the
  Same Things?", ICLR 2021, for batches.
  """

  def __init__(self) -> None:
    self._sums: dict[tuple[str, str, str], float] = {}

  def add(
    self, rows: Mapping[str, np.ndarray], columns: Mapping[str, np.ndarray]
  ) -> None:
    """Adds a batch; fewer than `LEAST_IMAGES` images are left out.

    Args:
      rows: The features [N,...] of one network by tap.
      columns: The features [N,...] of the other network, of the same images.
    """
    count = len(next(iter(rows.values())))
    if count < LEAST_IMAGES:
      return
    x, y = (
      {tap: centred_gram(value) for tap, value in features.items()}
      for features in (rows, columns)
    )
    pairs = [('row', a, a, x[a], x[a]) for a in x]
    pairs += [('column', b, b, y[b], y[b]) for b in y]
    pairs += [('cross', a, b, x[a], y[b]) for a in x for b in y]
    for kind, a, b, first, second in pairs:
      # An image's weight, N, over N(N-3).
      value = np.vdot(first, second) / (count - 3)
      key = (kind, a, b)
      self._sums[key] = self._sums.get(key, 0.0) + float(value)

  def matrix(self, rows: list[str], columns: list[str]) -> np.ndarray:
    """Returns the CKA of each pair of taps, [R,C] f64.

    Args:
      rows: The R taps of the one network.
      columns: The C taps of the other.

    Returns:
      The matrix; NaN where a tap is the same for all images. Sampling may take
      an entry slightly below 0.
    """
    return np.array([[self._value(a, b) for b in columns] for a in rows])

  def _value(self, row: str, column: str) -> float:
    own = self._sums['row', row, row] * self._sums['column', column, column]
    if not own > 0:
      return math.nan
    return self._sums['cross', row, column] / math.sqrt(own)


def linear_cka(x: np.ndarray, y: np.ndarray) -> float:
  """Returns the linear CKA of the features of the same images; see `Cka`.

  Args:
    x: Features [N,...] of N >= 4 images.
    y: Other features [N,...] of these images.
  """
  cka = Cka()
  cka.add({'x': x}, {'y': y})
  return float(cka.matrix(['x'], ['y'])[0, 0])
