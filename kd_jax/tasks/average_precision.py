"""Pascal VOC's average precision, on the host.

Source: Everingham et al., IJCV 2010; `voc_eval` and `voc_ap` of ssd.pytorch
5b0b77f, in turn of py-faster-rcnn. They round scores and boxes and move
detections by a pixel when they write files, which is left out here, and they
give -1 to a class with objects and no detection, which is 0 here.
"""

from typing import NamedTuple

import numpy as np

# Overlap above which a detection is of an object.
OVERLAP = 0.5


class Objects(NamedTuple):
  """The objects of a split.

  Attributes:
    image: The image's number, [G] i64.
    label: The class, [G] i64.
    box: The box (x1, y1, x2, y2), in any unit of length, [G,4] f64.
    difficult: Whether it counts neither as found nor as missed, [G] bool.
  """

  image: np.ndarray
  label: np.ndarray
  box: np.ndarray
  difficult: np.ndarray


class Detections(NamedTuple):
  """The detections in a split.

  Attributes:
    image: The image's number, [D] i64.
    label: The class, [D] i64.
    score: The score, [D] f64.
    box: The box (x1, y1, x2, y2), in the unit of the objects', [D,4] f64.
  """

  image: np.ndarray
  label: np.ndarray
  score: np.ndarray
  box: np.ndarray


def average_precisions(
  objects: Objects, detections: Detections, num_classes: int
) -> dict[str, np.ndarray]:
  """Returns the average precision of every class, from 0 to 1.

  Args:
    objects: The objects of all images.
    detections: The detections in all images.
    num_classes: K.

  Returns:
    'ap' by VOC2007's 11 recalls, and 'ap_area', the area below the curve, as
    from 2010 on, [K] f64 each; NaN for a class without objects that count.
  """
  results = {name: np.full(num_classes, np.nan) for name in ('ap', 'ap_area')}
  for k in range(num_classes):
    of_class = _chosen(objects, objects.label == k)
    if of_class.difficult.all():
      continue
    recall, precision = curve(
      of_class, _chosen(detections, detections.label == k)
    )
    results['ap'][k] = eleven_points(recall, precision)
    results['ap_area'][k] = area(recall, precision)
  return results


def curve(
  objects: Objects, detections: Detections
) -> tuple[np.ndarray, np.ndarray]:
  """Returns recall and precision of a class, as more detections count.

  Detections count by falling score. A detection is of the object in its image
  with which it overlaps most, if by more than `OVERLAP`. It is ignored if that
  object is difficult, and right if no earlier detection is of that object.

  Args:
    objects: The objects of the class, of which one is not difficult.
    detections: The detections of the class.

  Returns:
    Recall and precision after each detection, [D] f64 each.
  """
  objects = _chosen(objects, np.argsort(objects.image, kind='stable'))
  order = np.argsort(-detections.score, kind='stable')
  target = _targets(objects, _chosen(detections, order))
  right = np.zeros(len(target), bool)
  right[np.unique(target, return_index=True)[1]] = True
  right &= target >= 0
  ignored = (target >= 0) & objects.difficult[target]
  true = np.cumsum(right & ~ignored)
  false = np.cumsum(~right & ~ignored)
  precision = true / np.maximum(true + false, np.finfo(np.float64).eps)
  return true / np.count_nonzero(~objects.difficult), precision


def _chosen(rows, index):
  return type(rows)(*(column[index] for column in rows))


def _targets(objects: Objects, detections: Detections) -> np.ndarray:
  """Returns each detection's object, [D] i64; -1 where it is of none.

  Args:
    objects: Objects in the order of their images.
    detections: Detections.
  """
  first = np.searchsorted(objects.image, detections.image, 'left')
  last = np.searchsorted(objects.image, detections.image, 'right')
  target = np.full(len(first), -1)
  best = np.full(len(first), OVERLAP)
  for _ in range((last - first).max(initial=0)):
    index = np.minimum(first, len(objects.image) - 1)
    overlaps = _overlaps(objects.box[index], detections.box)
    better = (first < last) & (overlaps > best)
    target[better], best[better] = index[better], overlaps[better]
    first = first + 1
  return target


def _overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Returns the intersection over union of boxes [D,4], row by row, [D]."""
  sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
  both = np.maximum(sides, 0).prod(axis=1)
  union = sum((x[:, 2:] - x[:, :2]).prod(axis=1) for x in (a, b)) - both
  return both / np.where(union > 0, union, 1)


def eleven_points(recall: np.ndarray, precision: np.ndarray) -> float:
  """Returns the mean precision at the recalls 0, 0.1, ..., 1 of VOC2007.

  Args:
    recall: Rising recalls, [D] f64.
    precision: The precision at each, [D] f64. What counts at a recall is the
      largest precision at that or a higher recall.
  """
  return float(
    np.mean(
      [
        precision[recall >= least].max(initial=0.0)
        for least in np.arange(0.0, 1.1, 0.1)
      ]
    )
  )


def area(recall: np.ndarray, precision: np.ndarray) -> float:
  """Returns the area below the envelope of precision over recall.

  Args:
    recall: Rising recalls, [D] f64.
    precision: The precision at each, [D] f64; see `eleven_points`.
  """
  envelope = np.maximum.accumulate(precision[::-1])[::-1]
  return float((np.diff(recall, prepend=0.0) * envelope).sum())
