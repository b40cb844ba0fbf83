"""Repeats published numbers: `kd-jax reproduce list|run|add|report`.

A cell is a published number with the recipe that repeats it, by whose name it
is called. `run` trains what is missing of some cells; where it ends with exit
code 75, something is unfinished, and the same command goes on.
"""

import argparse
from collections.abc import Sequence
import os
import pathlib

from kd_jax import errors
from kd_jax.cli import starting
from kd_jax.reproduce import cells as cells_lib
from kd_jax.reproduce import pace, page, pictures, runner, store
from kd_jax.runtime import command

_PAGE = 'results.md'


@command.reporting()
def main(argv: Sequence[str]) -> int:
  """Executes `list`, `run`, `add` or `report` and returns the exit code.

  Args:
    argv: The arguments after the verb.
  """
  args = _parser().parse_args(argv)
  if 'seeds' in args:
    args.seeds = starting.seeds(args.seeds)
  return args.execute(args, cells_lib.load(args.cells))


def _parser() -> command.Parser:
  parser = command.parser('kd-jax reproduce', __doc__)
  actions = parser.add_subparsers(required=True, metavar='list|run|add|report')
  known = {
    'list': (_list, 'shows the cells: published numbers and what was run'),
    'run': (_run, 'trains what is missing of some cells'),
    'add': (_add, 'takes the result of a run that `kd-jax train` made'),
    'report': (_report, 'writes the results page and its pictures'),
  }
  made = {}
  for name, (execute, text) in known.items():
    made[name] = one = actions.add_parser(name, help=text, description=text)
    one.set_defaults(execute=execute)
    one.add_argument(
      '--cells', default='', help='another table than that of kd_jax'
    )
    one.add_argument(
      '--results' if name in ('list', 'report') else '--out',
      dest='results',
      type=pathlib.Path,
      default=pathlib.Path('results'),
      help='the folder of results (default: results)',
    )
  for name in ('list', 'run'):
    made[name].add_argument('--seeds', default='0,1,2', help='such as 0,1,2')
    made[name].add_argument(
      '--work',
      type=pathlib.Path,
      default=pathlib.Path('runs/reproduce'),
      help='the folder of the runs, which go on from it '
      '(default: runs/reproduce)',
    )
  made['run'].add_argument(
    'cell', nargs='+', help='a recipe, such as tf_fd:cifar100_r20'
  )
  made['run'].add_argument(
    '--minutes',
    type=_minutes,
    help='stop in time, and prefer what fits; no limit by default',
  )
  made['run'].add_argument(
    '--data', default='', help='the same data from elsewhere: npz:cifar100.npz'
  )
  made['add'].add_argument('cell', help='the recipe that was trained')
  made['add'].add_argument(
    'run', type=pathlib.Path, help='the folder of the finished run'
  )
  made['report'].add_argument(
    '--docs',
    type=pathlib.Path,
    default=pathlib.Path('docs'),
    help='the folder that takes the page (default: docs)',
  )
  return parser


def _minutes(text: str) -> float:
  try:
    minutes = float(text)
  except ValueError:
    minutes = 0.0
  if not 0 < minutes < float('inf'):
    raise argparse.ArgumentTypeError(f'{text!r}: give minutes above 0: 12')
  return minutes


def _list(args: argparse.Namespace, cells: list[cells_lib.Cell]) -> int:
  lines = []
  for cell in cells:
    stand = store.stand(args.results, cell, args.work)
    done = [seed for seed in args.seeds if seed in stand.done]
    state = f'{len(done)} of {len(args.seeds)} seeds' if stand.done else ''
    others = [seed for seed in stand.done if seed not in args.seeds]
    if others:
      state += f' and {", ".join(map(str, others))}'
    unfinished = [
      f'seed {seed} unfinished at epoch {epochs:.4g}'
      for seed, epochs in stand.unfinished.items()
    ]
    states = '; '.join(filter(None, [state, *unfinished])) or 'not run'
    lines.append((cell.recipe, page.published(cell), states))
  widths = [max(len(line[i]) for line in lines) for i in range(2)]
  for recipe, number, states in lines:
    print(f'{recipe:{widths[0]}}  {number:{widths[1]}}  {states}')
  _say_outdated(args, cells)
  return 0


def _say_outdated(
  args: argparse.Namespace, cells: list[cells_lib.Cell]
) -> None:
  places = runner.Places(args.results, args.work)
  for task, changes in runner.outdated(cells, args.results).items():
    _say(
      f'{task}: the recipe has changed since ({"; ".join(changes)}); without '
      f'{store.path_of(args.results, *task)} and {places.run_of(task)} it is '
      'trained again'
    )


def _run(args: argparse.Namespace, cells: list[cells_lib.Cell]) -> int:
  budget = pace.Budget(args.minutes)
  chosen = cells_lib.choose(cells, args.cell)
  if args.data and len(sets := {cell.data for cell in chosen}) > 1:
    raise errors.UsageError(
      f'--data={args.data}: the cells have several data sets '
      f'({", ".join(sorted(sets))}); name cells of one'
    )
  _say_outdated(args, chosen)
  done = {cell: store.stand(args.results, cell).done for cell in chosen}
  tasks = [
    runner.Task(cell, seed)
    for cell in chosen
    for seed in args.seeds
    if seed not in done[cell]
  ]
  if not tasks:
    print('nothing is missing')
    return 0
  starting.before_jax_starts(deterministic=False, cache_dir='')
  if args.data:
    runner.check_data(tasks[0], args.data)
  places = runner.Places(args.results, args.work, args.data)
  with starting.stopping() as stop:
    outcome = runner.Runner(places, budget, stop, _say).run(tasks)
  _say(
    f'{len(outcome.done)} done, {len(outcome.unfinished)} unfinished, '
    f'{len(outcome.failed)} failed'
  )
  if outcome.unfinished:
    names = ', '.join(map(str, outcome.unfinished))
    _say(f'unfinished: {names}; the same command goes on')
  if outcome.failed:
    return 1
  return stop.code if outcome.unfinished else 0


def _say(text: str) -> None:
  print(text, flush=True)


def _add(args: argparse.Namespace, cells: list[cells_lib.Cell]) -> int:
  (cell,) = cells_lib.choose(cells, [args.cell])
  task = runner.add(cell, args.run, args.results)
  print(f'written: {store.path_of(args.results, *task)}')
  return 0


def _report(args: argparse.Namespace, cells: list[cells_lib.Cell]) -> int:
  try:
    args.docs.mkdir(parents=True, exist_ok=True)
    outdated = runner.outdated(cells, args.results)
    text = page.text(cells, args.results, outdated)
    pictures.draw(cells, args.results, args.docs)
    part = args.docs / f'{_PAGE}.part'
    part.write_text(text, encoding='utf-8')
    os.replace(part, args.docs / _PAGE)
  except OSError as error:
    raise errors.UsageError(
      f'cannot write in {args.docs}: {error.strerror}; give a writable --docs'
    ) from error
  print(f'written: {args.docs / _PAGE}, {", ".join(page.PICTURES)}')
  return 0
