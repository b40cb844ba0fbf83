"""The accuracy of a trained network on a whole split, class by class."""

from collections.abc import Sequence
import contextlib
from typing import Any

import numpy as np

from kd_jax.data import source, stream
from kd_jax.export import artifact
from kd_jax.runtime import sharding


def accuracy(
  found: artifact.Trained,
  images: source.Images,
  info: source.Info,
  batch_size: int = 256,
  workers: int = 0,
) -> dict[str, Any]:
  """Returns the accuracy of a network over all images of a split.

  Args:
    found: The trained network.
    images: The images of the split.
    info: The facts about the data set, at the network's image size.
    batch_size: The number of images per step.
    workers: The number of processes that decode; 0 decodes in this process.

  Returns:
    A dict with 'images' and 'correct' (counts), 'top1' (percent), of more than
    5 classes 'correct5' and 'top5' too, and 'classes': a list with a dict for
    each class of 'name', 'images', 'correct' (counts) and 'top1' (percent, or
    None without images).
  """
  ranks = artifact.ranks(found.forward)
  names = found.facts['class_names']
  numbers = order(names, info.class_names)
  split = stream.Streamed(images, info, sharding.make_mesh(1), workers=workers)
  labels, label_ranks = [], []
  with contextlib.closing(split.eval_feeds(batch_size)) as feeds:
    for feed in feeds:
      real, label = feed['mask'] > 0, numbers[feed['label']]
      rank = ranks(found.weights, feed['image'], label)
      labels.append(label[real])
      label_ranks.append(np.asarray(rank)[real])
  label, rank = np.concatenate(labels), np.concatenate(label_ranks)
  correct, correct5 = rank < 1, rank < 5
  classes = []
  for k, name in enumerate(names):
    hits = correct[label == k]
    top1 = 100 * float(hits.mean()) if hits.size else None
    counts = {
      'images': hits.size,
      'correct': int(hits.sum()),
      'top1': top1,
    }
    classes.append({'name': name, **counts})
  top5 = {
    'correct5': int(correct5.sum()),
    'top5': 100 * float(correct5.mean()),
  }
  return {
    'images': label.size,
    'correct': int(correct.sum()),
    'top1': 100 * float(correct.mean()),
    **(top5 if len(names) > 5 else {}),
    'classes': classes,
  }


def order(ours: Sequence[str], theirs: Sequence[str]) -> np.ndarray:
  """Returns the network's class number for each class of the data set, [K] i32.

  Classes are matched by name if both have the same distinct names, else by
  number.

  Args:
    ours: The names of the network's classes.
    theirs: The names of the data set's classes.
  """
  same_names = sorted(ours) == sorted(theirs) and len(set(ours)) == len(ours)
  numbers = (
    [list(ours).index(n) for n in theirs] if same_names else range(len(ours))
  )
  return np.array(numbers, np.int32)
