"""Measures the accuracy of a network: `kd-jax evaluate PATH`.

PATH is the folder of a finished run, an export, or a file of PyTorch weights.
Such a file does not name its network and data: give `--network` and `--data`.
The output has the top-1 and top-5 accuracy over all images of the split and
the accuracy of each class. For a run or an export, `--data` chooses another
data set with as many classes.
"""

import argparse
from collections.abc import Sequence
import json
import sys
from typing import Any

from absl import logging

from kd_jax import errors, tasks
from kd_jax.data import source
from kd_jax.export import artifact
from kd_jax.runtime import command
from kd_jax.training import datasets, imports, measure, report, restore

_MOST_ROWS = 20  # the most classes that are printed
# Figures that are printed beside the headline, by their key.
_BESIDE = {'top5': 'top-5', 'map_area': 'by the area below the curve'}
# The names of the last columns of the table of classes.
_COLUMNS = {'top1': 'top-1', 'iou': 'IoU', 'ap': 'AP'}


@command.reporting()
def main(argv: Sequence[str]) -> int:
  """Prints the accuracy of a network and returns the exit code.

  Args:
    argv: The arguments after the verb.
  """
  logging.set_verbosity(logging.ERROR)  # otherwise Orbax logs every read
  args = _parser().parse_args(argv)
  _check(args)
  trained, opened = _opened(args)
  splits = ('train', 'test', *(['val'] if opened.info.num_val else []))
  if args.split not in splits:
    raise errors.unknown('--split', args.split, splits)
  images = opened.split(args.split)
  with errors.keys('--'):
    figures = measure.accuracy(
      trained,
      images,
      opened.info,
      args.batch_size,
      args.workers,
      args.eval_protocol,
    )
  own = not args.network and not args.data
  changed = datasets.changed(trained, opened) if own else ''
  print(text(trained, opened.info, args.split, figures, changed))
  if args.json:
    named = {'data': opened.info.name, 'split': args.split}
    named |= {'changed': changed} if changed else {}
    try:
      with open(args.json, 'w', encoding='utf-8') as file:
        json.dump(named | figures, file)
    except OSError as error:
      raise errors.UsageError(f'cannot write {args.json}: {error}') from error
  return 0


def _parser() -> argparse.ArgumentParser:
  parser = command.parser('kd-jax evaluate', __doc__)
  parser.add_argument('path', help='of a run, an export, a file of weights')
  parser.add_argument('--network', help='whose weights they are')
  parser.add_argument('--key', default='', help='as config.teacher.key')
  parser.add_argument('--image_size', type=int, default=0, help='of weights')
  parser.add_argument('--mean', type=float, nargs=3, help='of weights; 0 to 1')
  parser.add_argument('--std', type=float, nargs=3, help='of weights')
  parser.add_argument('--data', default='', help='as config.data.name')
  parser.add_argument('--split', default='test', help='train, val or test')
  parser.add_argument('--data_dir', default='', help='as config.data.data_dir')
  parser.add_argument(
    '--eval_protocol', default='', help='as config.data.eval_protocol'
  )
  parser.add_argument('--batch_size', type=int, default=256)
  parser.add_argument('--workers', type=int, default=0, help='that decode')
  parser.add_argument(
    '--ema', action='store_true', help='takes the averaged parameters of a run'
  )
  parser.add_argument('--allow_imports', action='store_true', help=imports.HELP)
  parser.add_argument('--json', help='a file for the figures')
  return parser


def _check(args: argparse.Namespace) -> None:
  """Raises UsageError for arguments that are wrong or have no use."""
  if args.batch_size < 1 or args.workers < 0:
    raise errors.UsageError(
      f'--batch_size={args.batch_size} must be positive and --workers='
      f'{args.workers} not negative'
    )
  for name in ('image_size', 'mean', 'std', 'key'):
    if getattr(args, name) and not args.network:
      raise errors.UsageError(
        f'--{name} is for a file of weights, with --network: a run has its own'
      )
  if args.network and args.ema:
    raise errors.UsageError('--ema is for a run, and not for a file of weights')


def _opened(
  args: argparse.Namespace,
) -> tuple[artifact.Trained, source.Source]:
  """Returns the network and the data that it is measured on."""
  if args.network:
    with errors.keys('--'):
      opened = datasets.open_named(
        args.data,
        args.image_size,
        args.data_dir,
        mean=tuple(args.mean or ()),
        std=tuple(args.std or ()),
      )
      trained = restore.of_weights(
        args.path,
        args.network,
        opened.info,
        args.mean,
        args.std,
        args.key,
        lambda note: print(errors.line(note), file=sys.stderr),
      )
    return trained, opened
  allow = args.allow_imports
  with errors.keys(allow_imports='--allow_imports', ema='--ema'):
    trained = restore.load(args.path, allow_imports=allow, ema=args.ema)
  names = {key: f'--{key}' for key in ('data', 'data_dir', 'allow_imports')}
  with errors.keys(**names):
    opened = datasets.open_data(trained, args.data, args.data_dir, allow)
  return trained, opened


def text(
  found: artifact.Trained,
  info: source.Info,
  split: str,
  figures: dict[str, Any],
  changed: str = '',
) -> str:
  """Returns the text that the command prints.

  Args:
    found: The trained network.
    info: The facts about the data set.
    split: The name of the split.
    figures: The figures, as returned by `measure.accuracy`.
    changed: What has changed of the data since the training; see
      `datasets.changed`.
  """
  facts, metric = found.facts, tasks.find(info.task).headline
  where = f'{facts["network"]} on {info.name} {split}'
  if 'correct' in figures:
    counted = f'{figures["correct"]} of {figures["images"]} images correct'
  else:
    counted = f'{figures["images"]} images'
  if 'protocol' in figures:
    counted += f', protocol {figures["protocol"]}'
  lines = [
    f'{where}: {counted}',
    f'{metric.text} {figures[metric.name]:.2f}%'
    + ''.join(
      f', {name} {figures[key]:.2f}%'
      for key, name in _BESIDE.items()
      if key in figures
    ),
  ]
  if changed:
    lines.append(changed)
  if {*facts['class_names']} != {*info.class_names}:
    lines.append('the classes have other names there: they are met by number')
  _, *counts, percent = figures['classes'][0]
  classes = [c for c in figures['classes'] if c[percent] is not None]
  if len(classes) > _MOST_ROWS:
    classes = sorted(classes, key=lambda c: c[percent])[:_MOST_ROWS]
    lines.append(f'the {_MOST_ROWS} classes with the lowest accuracy:')
  rows = [('class', *counts, _COLUMNS[percent])] + [
    (c['name'], *(str(c[key]) for key in counts), f'{c[percent]:.2f}%')
    for c in classes
  ]
  return '\n'.join([*map(errors.line, lines), report.table(rows)])
