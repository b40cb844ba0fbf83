"""Measures what labels images: `kd-jax evaluate PATH`.

The path is of a finished run, of an export, or of a file of PyTorch weights,
which says nothing of its network: `--network` and `--data` do. Every image of
the split counts once: top-1, top-5, and each class. `--data` names another data
set with as many classes.
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

_MOST_ROWS = 20  # of classes that are worth printing


@command.reporting()
def main(argv: Sequence[str]) -> int:
  """Prints the accuracy of what the command line names."""
  logging.set_verbosity(logging.ERROR)  # Orbax tells every read otherwise
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
    found = restore.of_weights(
      args.path, args.network, opened.info, args.mean, args.std
    )
  else:
    found = restore.load(args.path)
    opened = restore.open_data(found, args.data, args.data_dir)
  splits = ('train', 'test', *(['val'] if opened.info.num_val else []))
  if args.split not in splits:
    raise errors.unknown('--split', args.split, splits)
  images = opened.split(args.split)
  figures = measure(found, images, opened.info, args.batch_size, args.workers)
  print(text(found, opened.info, args.split, figures))
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
  """Accuracy over all images of a split.

  Args:
    found: what labels them.
    images: the split.
    info: of its data set, at the image size of `found`.
    batch_size: images a step.
    workers: processes that decode; 0 is this one.

  Returns:
    'images', 'correct' and 'correct5' (counts), 'top1' and 'top5' (percent),
    and 'classes': for each, 'name', 'images', 'correct', 'top1' (None without
    images).
  """
  ranks = artifact.ranks(found.forward)
  names = found.facts['class_names']
  numbers = order(names, info.class_names)
  split = stream.Streamed(images, info, sharding.make_mesh(1), workers=workers)
  labels, before = [], []
  with contextlib.closing(split.eval_feeds(batch_size)) as feeds:
    for feed in feeds:
      real, label = feed['mask'] > 0, numbers[feed['label']]
      rank = ranks(found.weights, feed['image'], label)
      labels.append(label[real])
      before.append(np.asarray(rank)[real])
  label, rank = np.concatenate(labels), np.concatenate(before)
  correct, correct5 = rank < 1, rank < 5
  classes = []
  for k, name in enumerate(names):
    own = correct[label == k]
    top1 = 100 * float(own.mean()) if own.size else None
    one = {'images': own.size, 'correct': int(own.sum()), 'top1': top1}
    classes.append({'name': name, **one})
  return {
    'images': label.size,
    'correct': int(correct.sum()),
    'correct5': int(correct5.sum()),
    'top1': 100 * float(correct.mean()),
    'top5': 100 * float(correct5.mean()),
    'classes': classes,
  }


def order(ours: Sequence[str], theirs: Sequence[str]) -> np.ndarray:
  """The network's number of each class of the data set, [K] i32.

  By name where both have the same names, else by number.
  """
  same = sorted(ours) == sorted(theirs) and len(set(ours)) == len(ours)
  numbers = [list(ours).index(n) for n in theirs] if same else range(len(ours))
  return np.array(numbers, np.int32)


def text(
  found: artifact.Trained,
  info: source.Info,
  split: str,
  figures: dict[str, Any],
) -> str:
  """What a person reads of `measure`'s figures."""
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
