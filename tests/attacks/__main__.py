"""Tries every attack, and prints a table of kinds.

  python -m tests.attacks                      # all of them
  python -m tests.attacks images downloads     # these kinds
  python -m tests.attacks --json=after.json --before=before.json

  python -m tests.attacks --code=CHECKOUT --json=before.json  # on older code

The command ends with 1 if an attack did harm.
"""

import argparse
import collections
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import pytest

from tests import attacks, children

ROOT = pathlib.Path(__file__).resolve().parents[2]
MOST_BYTES = 16 * 2**30  # of memory that an attack may ask for


def try_all(names, code):
  """Yields (name, outcome, seconds) of attacks, 'held' or how harm was done.

  One process after the other tries them; where one ends within an attack, that
  attack did harm, and the next process goes on behind it.

  Args:
    names: The attacks' names.
    code: The checkout whose `kd_jax` is attacked; the attacks are ours.
  """
  waiting = list(names)
  while waiting:
    with tempfile.TemporaryDirectory() as place:
      outcomes, ended = _tried(waiting, code, pathlib.Path(place))
    for name, outcome, seconds in outcomes:
      waiting.remove(name)
      yield name, outcome, seconds
    if waiting:
      yield waiting.pop(0), f'the process ended: {ended}', 0.0


def _tried(names, code, place):
  """Returns the outcomes of one process, and how it ended."""
  modules, results = place / 'code', place / 'results.jsonl'
  modules.mkdir()
  results.touch()
  for part, root in (('kd_jax', code), ('configs', code), ('tests', ROOT)):
    (modules / part).symlink_to(root / part)
  (place / 'names.json').write_text(json.dumps(names))
  environment = {
    **os.environ,
    'KD_JAX_CACHE': f'{place}/cache',
    'PYTHONPATH': os.fspath(modules),
    'JAX_PLATFORMS': 'cpu',
  }
  command = [sys.executable, '-P', '-m', 'tests.attacks', '--serve', str(place)]
  silent = {'stdout': subprocess.DEVNULL, 'stderr': subprocess.DEVNULL}
  try:
    with children.Child(
      command, cpu_s=1e6, idle_s=600.0, cwd=place, env=environment, **silent
    ) as child:
      ended = f'exit {child.wait()}'
  except pytest.fail.Exception as error:
    ended = str(error).partition(': ')[2][:100]
  outcomes = [json.loads(line) for line in results.read_text().splitlines()]
  return outcomes, ended


def serve(place):
  """Tries the attacks that names.json lists, with a bound on memory."""
  resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
  every = attacks.everything()
  for number, name in enumerate(json.loads((place / 'names.json').read_text())):
    folder = place / f'attack{number}'
    folder.mkdir()
    os.chdir(folder)
    began, outcome = time.monotonic(), 'held'
    try:
      every[name].run(folder)
    # Whatever it does is harm; a child that is cut off fails as tests do.
    except (Exception, pytest.fail.Exception) as error:
      lines = [line for line in str(error).splitlines() if line.strip()]
      outcome = f'{type(error).__name__}: {lines[0] if lines else ""}'[:200]
    except SystemExit as error:
      outcome = f'SystemExit: {error.code}'[:200]
    seconds = round(time.monotonic() - began, 2)
    with (place / 'results.jsonl').open('a') as file:
      file.write(json.dumps([name, outcome, seconds]) + '\n')


def table(results, before):
  """Returns the lines of a Markdown table: a row for each kind."""

  def counts(outcomes):
    by_kind = collections.defaultdict(list)
    for name, outcome in outcomes.items():
      by_kind[name.partition(':')[0]].append(outcome == 'held')
    by_kind['all'] = [held for list_ in by_kind.values() for held in list_]
    return by_kind

  now, then = counts(results), counts(before or {})
  head = ['kind', 'tried', *(['held before'] if before else []), 'held']
  rows = [head, ['---'] + ['---:'] * (len(head) - 1)]
  for kind in sorted(now, key=lambda kind: (kind == 'all', kind)):
    past = [str(sum(then[kind]))] if before else []
    rows.append([kind, str(len(now[kind])), *past, str(sum(now[kind]))])
  return ['| ' + ' | '.join(row) + ' |' for row in rows]


def main():
  """Tries the attacks of the kinds that are named."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('kinds', nargs='*', help='such as images; default: all')
  parser.add_argument('--serve', type=pathlib.Path, help=argparse.SUPPRESS)
  parser.add_argument('--quick', action='store_true', help='the quick ones')
  parser.add_argument(
    '--code', type=pathlib.Path, default=ROOT, help='a checkout to attack'
  )
  parser.add_argument('--json', help='write the outcomes to this file')
  parser.add_argument('--before', help='outcomes of older code, to compare')
  args = parser.parse_args()
  every = attacks.everything()
  if args.serve:
    serve(args.serve)
    return 0
  if unknown := set(args.kinds) - {a.kind for a in every.values()}:
    parser.error(f'unknown kinds: {", ".join(sorted(unknown))}')
  names = [
    name
    for name, attack in every.items()
    if (not args.kinds or attack.kind in args.kinds)
    and (attack.quick or not args.quick)
  ]
  results = {}
  for name, outcome, seconds in try_all(names, args.code.resolve()):
    results[name] = outcome
    shown = name.encode('unicode_escape').decode()
    if outcome != 'held' or seconds > 5:
      print(f'{seconds:6.1f} s  {shown}  {outcome}', flush=True)
  if args.json:
    pathlib.Path(args.json).write_text(json.dumps(results, indent=1) + '\n')
  before = args.before and json.loads(pathlib.Path(args.before).read_text())
  print('\n' + '\n'.join(table(results, before)))
  return int(any(outcome != 'held' for outcome in results.values()))


if __name__ == '__main__':
  sys.exit(main())
