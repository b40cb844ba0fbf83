"""The accuracy of a trained network on a whole split, and of each class."""

from collections.abc import Sequence
import contextlib
from typing import Any

import numpy as np

from kd_jax import errors, tasks
from kd_jax.data import shaped, source
from kd_jax.distill import evaluation
from kd_jax.export import artifact
from kd_jax.runtime import sharding
from kd_jax.training import splits


def accuracy(
  found: artifact.Trained,
  images: source.Images,
  info: source.Info,
  batch_size: int = 256,
  workers: int = 0,
  eval_protocol: str = '',
) -> dict[str, Any]:
  """Returns the accuracy of a network over all images of a split.

  Args:
    found: The trained network.
    images: The images of the split.
    info: The facts about the data set, at the network's image size.
    batch_size: The most images of a step.
    workers: The number of processes that decode; 0 decodes in this process.
    eval_protocol: How images with masks are evaluated; '' is as the network
      was in its training, an export by squares. See `shaped.PROTOCOLS`.

  Returns:
    A dict with the figures of the task, among them 'images' and 'loss' (mean
    cross-entropy; an export of a detector has none), of images with masks
    'protocol', which names how they were evaluated, and 'classes': a list with
    a dict for each class of 'name' and what `task.of_classes` returns, None
    where nothing counts. In classification it has 'correct' (a count) and
    'top1' (percent), of more than 5 classes 'correct5' and 'top5' too, and of
    each class 'images', 'correct' and 'top1'.

  Raises:
    UsageError: The images cannot be evaluated by this protocol, or the network
      is an export and takes squares alone.
    RunError: The loss is no finite number.
  """
  figures, _ = measured(found, images, info, batch_size, workers, eval_protocol)
  return figures


def measured(
  found: artifact.Trained,
  images: source.Images,
  info: source.Info,
  batch_size: int = 256,
  workers: int = 0,
  eval_protocol: str = '',
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Returns `accuracy`, and the sums of `task.count` from which it comes.

  Classes are numbered as the network numbers them. For the arguments and the
  errors see `accuracy`.
  """
  task = tasks.find(info.task)
  how = protocol(found, info, images, eval_protocol)
  counts = artifact.counted(found.forward, task)
  names = found.facts['class_names']
  # The other values of a mask, such as `augment.VOID`, stay what they are.
  numbers = np.arange(max(256, len(names)), dtype=np.int32)
  numbers[: len(names)] = order(names, info.class_names)
  split = splits.streamed(images, info, sharding.make_mesh(1), how, workers)
  size = min(batch_size, len(images))
  with contextlib.closing(split.eval_feeds(size)) as feeds:
    batches = [
      counts(
        found.weights, {**feed, 'label': _numbered(feed['label'], numbers)}
      )
      for feed in feeds
    ]
  rows = evaluation.rows([batch.pop('rows') for batch in batches])
  total = evaluation.total(batches)
  sums, of_classes = total['all'], total['classes']
  figures = task.figures(sums, rows)
  finite = all(np.isfinite(x).all() for x in rows.values())
  if not finite or not np.isfinite(figures.get('loss', 0.0)):
    loss = float(figures.get('loss', np.nan))
    raise errors.RunError(
      f'the cross-entropy is {loss}: the logits are no finite numbers, and an '
      'accuracy would mean nothing'
    )
  columns = task.of_classes(of_classes, rows)
  *counted, percent = columns
  classes = [
    {
      'name': name,
      **{key: int(columns[key][i]) for key in counted},
      percent: None if np.isnan(part := columns[percent][i]) else float(part),
    }
    for i, name in enumerate(names)
  ]
  correct = {'top1': 'correct', 'top5': 'correct5'}
  named = {
    **{to: int(sums[key]) for key, to in correct.items() if key in sums},
    **{name: float(value) for name, value in figures.items()},
    'images': int(figures['images']),
    **({'protocol': how} if info.task == 'segmentation' else {}),
    'classes': classes,
  }
  return named, sums


def protocol(
  found: artifact.Trained,
  info: source.Info,
  images: source.Images,
  asked: str,
) -> str:
  """Returns how a network is evaluated, one of `shaped.PROTOCOLS`.

  Args:
    found: The trained network.
    info: The facts about the data set.
    images: The images of the split.
    asked: The protocol that is asked for; '' is as in `accuracy`.

  Raises:
    UsageError: The images or the network cannot be evaluated so.
  """
  if info.task != 'segmentation' or 'format' in found.facts:
    how = asked or 'square'  # the program of an export takes squares
  else:
    how = asked or found.facts.get('accuracy', {}).get('protocol', 'square')
  shaped.check(how, info.task, images)
  if how != 'square' and 'format' in found.facts:
    size = found.facts['image_size']
    raise errors.ArgumentError(
      f'eval_protocol={how!r}: an export takes images of {size}x{size} pixels '
      "alone: give 'square', or the run's folder"
    )
  return how


def _numbered(labels: np.ndarray, numbers: np.ndarray) -> np.ndarray:
  """Returns the network's numbers of labels; those below 0 pad and stay."""
  return np.where(labels < 0, labels, numbers[labels])


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
