"""Measures the accuracy of a network: `kd-jax evaluate PATH`.

PATH is the folder of a finished run, an export, or a file of PyTorch weights.
Such a file does not name its network and data: give `--network` and `--data`.
The output has the top-1 and top-5 accuracy over all images of the split and
the accuracy of each class. For a run or an export, `--data` chooses another
data set with as many classes.
"""

from collections.abc import Sequence
import contextlib
import json
from typing import Any

from absl import logging
import numpy as np

from kd_jax import errors
from kd_jax.data import source, stream
from kd_jax.export import artifact
from kd_jax.runtime import command, sharding
from kd_jax.training import report, restore

_MOST_ROWS = 20  # the most classes that are printed


@command.reporting()
def main(argv: Sequence[str]) -> int:
  """Prints the accuracy of a network and returns the exit code.

  Args:
    argv: The arguments after the verb.
  """
  logging.set_verbosity(logging.ERROR)  # otherwise Orbax logs every read
  parser = command.parser('kd-jax evaluate', __doc__)
  parser.add_argument('path', help='of a run, an export, a file of weights')
  parser.add_argument('--network', help='whose weights they are')
  parser.add_argument('--image_size', type=int, default=0, help='of weights')
  parser.add_argument('--mean', type=float, nargs=3, help='of weights; 0 to 1')
  parser.add_argument('--std', type=float, nargs=3, help='likewise')
  parser.add_argument('--data', default='', help='as config.data.name')
  parser.add_argument('--split', default='test', help='train, val or test')
  parser.add_argument('--data_dir', default='', help='as config.data.data_dir')
  parser.add_argument('--batch_size', type=int, default=256)
  parser.add_argument('--workers', type=int, default=0, help='that decode')
  parser.add_argument('--json', help='a file for the figures')
  args = parser.parse_args(argv)
  if args.batch_size < 1 or args.workers < 0:
    raise errors.UsageError(
      f'--batch_size={args.batch_size} must be positive and --workers='
      f'{args.workers} not negative'
    )
  if args.network:
    opened = restore.open_named(args.data, args.image_size, args.data_dir)
    trained = restore.of_weights(
      args.path, args.network, opened.info, args.mean, args.std
    )
  else:
    trained = restore.load(args.path)
    opened = restore.open_data(trained, args.data, args.data_dir)
  splits = ('train', 'test', *(['val'] if opened.info.num_val else []))
  if args.split not in splits:
    raise errors.unknown('--split', args.split, splits)
  images = opened.split(args.split)
  figures = measure(trained, images, opened.info, args.batch_size, args.workers)
  print(text(trained, opened.info, args.split, figures))
  if args.json:
    try:
      with open(args.json, 'w', encoding='utf-8') as file:
        json.dump(
          {'data': opened.info.name, 'split': args.split} | figures, file
        )
    except OSError as error:
      raise errors.UsageError(f'cannot write {args.json}: {error}') from error
  return 0


def measure(
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
    A dict with 'images', 'correct' and 'correct5' (counts), 'top1' and 'top5'
    (percent), and 'classes': a list with a dict for each class of 'name',
    'images', 'correct' (counts) and 'top1' (percent, or None without images).
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
  return {
    'images': label.size,
    'correct': int(correct.sum()),
    'correct5': int(correct5.sum()),
    'top1': 100 * float(correct.mean()),
    'top5': 100 * float(correct5.mean()),
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


def text(
  found: artifact.Trained,
  info: source.Info,
  split: str,
  figures: dict[str, Any],
) -> str:
  """Returns the text that the command prints.

  Args:
    found: The trained network.
    info: The facts about the data set.
    split: The name of the split.
    figures: The figures, as returned by `measure`.
  """
  facts = found.facts
  lines = [
    f'{facts["network"]} on {info.name} {split}: {figures["correct"]} of '
    f'{figures["images"]} images correct',
    f'top-1 {figures["top1"]:.2f}%, top-5 {figures["top5"]:.2f}%',
  ]
  if {*facts['class_names']} != {*info.class_names}:
    lines.append('the classes have other names there: they are met by number')
  classes = [c for c in figures['classes'] if c['images']]
  if len(classes) > _MOST_ROWS:
    classes = sorted(classes, key=lambda c: c['top1'])[:_MOST_ROWS]
    lines.append(f'the {_MOST_ROWS} classes with the lowest accuracy:')
  rows = [('class', 'images', 'correct', 'top-1')] + [
    (c['name'], str(c['images']), str(c['correct']), f'{c["top1"]:.2f}%')
    for c in classes
  ]
  return '\n'.join([*lines, report.table(rows)])
