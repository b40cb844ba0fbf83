"""Compiles every program of a run for chips that this machine need not have.

  python -m kd_jax.benchmark.programs --chips=h100,v5e:2x2
  python -m kd_jax.benchmark.programs kd:cifar100_r20_r8 --image_size=32 \\
    --dtypes=bfloat16 --only=steps

The programs are the run's own functions (`kd_jax.distill.jitted`), called with
random images: the first state, the teachers' folding and evaluation, one
training step and a whole dispatch, with the images on the device or streamed,
known logits, evaluation, the device computations of saving and stopping, and
the export. Where a program differs by platform, the chip's variant is compiled.
Compiling needs kd_jax[cuda13] for a GPU and kd_jax[tpu] for a TPU. Nothing is
run. The exit code is 0 only if every program compiles.
"""

import argparse
from collections.abc import Callable, Sequence
import json
import re
import sys
import time
from typing import Any

from absl import logging
import jax

from kd_jax import errors
from kd_jax.benchmark import case, chips, planned
from kd_jax.runtime import command, sharding
from kd_jax.training import report

DEFAULT = ('ce', 'kd', 'ofd', 'ffsd', 'pics', 'crd')


@command.reporting()
def main(argv: Sequence[str]) -> int:
  """Prints a row for each program, and returns 0 if all of them compile.

  Raises:
    RunError: A program does not compile.
  """
  logging.set_verbosity(logging.ERROR)
  args = _parser().parse_args(argv)
  only = _pattern(args.only)
  chips.prepare()
  rows = []
  for place in args.chips.split(','):
    _, mesh = chips.mesh_of(place)
    sharding.check_batch(mesh, args.batch_size, '--batch_size')
    for dtype in args.dtypes.split(','):
      for name in args.configs or DEFAULT:
        about = {'config': name, 'dtype': dtype, 'chips': place}
        wanted = _wanted(args, dtype)
        programs = planned.programs(case.configured(name, wanted), wanted, mesh)
        for program, make in programs.items():
          if only.search(program):
            rows.append(about | compiled(program, make))
            print(line(rows[-1]), file=sys.stderr, flush=True)
  if not rows:
    raise errors.unknown('value of --only:', args.only, programs)
  print(table(rows))
  print(
    f'\nbatch {args.batch_size}, {args.image_size} pixels, {args.classes} '
    f'classes, {args.images} images; jax {jax.__version__}'
  )
  if args.json:
    with open(args.json, 'w', encoding='utf-8') as file:
      about = {'arguments': vars(args), 'jax': jax.__version__}
      json.dump({'rows': rows, **about}, file)
  if failed := [line(row) for row in rows if row['error']]:
    print('', *failed, sep='\n')
    raise errors.RunError(
      f'{len(failed)} of {len(rows)} programs do not compile'
    )
  return 0


def _parser() -> argparse.ArgumentParser:
  parser = command.parser('python -m kd_jax.benchmark.programs', __doc__)
  add = parser.add_argument
  add('configs', nargs='*', help=f'names or files; else {", ".join(DEFAULT)}')
  add('--chips', default='h100,v5e:2x2', help=chips.HELP)
  add('--dtypes', default='float32,bfloat16', help='with commas between')
  add('--only', default='', help='a regular expression of programs')
  add('--student', help='replaces config.student.name')
  add('--teacher', help='replaces config.teacher.name')
  add('--image_size', type=int, default=8)
  add('--classes', type=int, default=10)
  add('--images', type=int, default=1024, help='of the set')
  add('--batch_size', type=int, default=64, help='over all chips')
  add('--json', help='a file for the rows')
  return parser


def _pattern(text: str) -> re.Pattern[str]:
  try:
    return re.compile(text)
  except re.error as error:
    raise errors.UsageError(
      f'--only={text}: this is no regular expression: {error}'
    ) from error


def _wanted(args: argparse.Namespace, dtype: str) -> case.Wanted:
  fixed = {'steps_per_dispatch': 0, 'teacher_ahead': 0, 'devices': 1}
  values: dict[str, Any] = {**fixed, 'seeds': 1, **vars(args), 'dtype': dtype}
  return case.Wanted(**{key: values[key] for key in case.Wanted._fields})


def compiled(name: str, make: Callable[[], Any]) -> dict[str, Any]:
  """Compiles a program, and returns how that went.

  Args:
    name: The name of the program.
    make: A function that traces, lowers and compiles it.

  Returns:
    'program' (the name), 'compile_s' (seconds) and 'error' (the first line of
    what JAX or XLA raised, or '' if the program compiled).
  """
  began, error = time.perf_counter(), ''
  try:
    make()
  except (RuntimeError, TypeError, ValueError) as raised:
    text = str(raised).strip().partition('\n')[0]
    error = f'{type(raised).__name__}: {text}'
  took = time.perf_counter() - began
  return {'program': name, 'compile_s': took, 'error': error}


def table(rows: Sequence[dict[str, Any]]) -> str:
  """Returns the rows as an aligned table."""
  head = ('program', 'configuration', 'dtype', 'chips', 'compile', 'result')
  body = [
    (
      *(row[name] for name in ('program', 'config', 'dtype', 'chips')),
      f'{row["compile_s"]:.1f} s',
      'fails' if row['error'] else 'ok',
    )
    for row in rows
  ]
  return report.table([head, *body])


def line(row: dict[str, Any]) -> str:
  """Returns a row as a sentence, with its error."""
  names = ('config', 'dtype', 'chips', 'program')
  result = row['error'] or f'compiled in {row["compile_s"]:.1f} s'
  return f'{", ".join(row[name] for name in names)}: {result}'


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
