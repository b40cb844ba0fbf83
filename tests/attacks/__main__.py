"""Tries every attack in a process of its own, and prints a table of kinds.

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
import sys
import tempfile
import time

from tests import attacks, children

ROOT = pathlib.Path(__file__).resolve().parents[2]


def try_one(name, code):
  """Returns 'held', or how an attack did harm.

  Args:
    name: The attack's name.
    code: The checkout whose `kd_jax` is attacked; the attacks are ours.
  """
  with tempfile.TemporaryDirectory() as place:
    folder, modules = pathlib.Path(place, 'attack'), pathlib.Path(place, 'code')
    folder.mkdir()
    modules.mkdir()
    for part, root in (('kd_jax', code), ('configs', code), ('tests', ROOT)):
      (modules / part).symlink_to(root / part)
    environment = {
      **os.environ,
      'KD_JAX_CACHE': f'{place}/cache',
      'PYTHONPATH': os.fspath(modules),
    }
    result = children.run(
      [sys.executable, '-P', '-m', 'tests.attacks', '--one', name],
      check=False,
      idle_s=1200,  # what it starts has bounds of its own
      cwd=folder,
      env=environment,
    )
  if result.returncode == 0:
    return 'held'
  said = [line for line in result.stderr.splitlines() if line.strip()]
  return f'exit {result.returncode}: {said[-1] if said else ""}'[:200]


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
  parser.add_argument('--one', help='try this attack in this process')
  parser.add_argument(
    '--code', type=pathlib.Path, default=ROOT, help='a checkout to attack'
  )
  parser.add_argument('--json', help='write the outcomes to this file')
  parser.add_argument('--before', help='outcomes of older code, to compare')
  args = parser.parse_args()
  every = attacks.everything()
  if args.one:
    every[args.one].run(pathlib.Path.cwd())
    return 0
  if unknown := set(args.kinds) - {a.kind for a in every.values()}:
    parser.error(f'unknown kinds: {", ".join(sorted(unknown))}')
  results = {}
  for name, attack in every.items():
    if args.kinds and attack.kind not in args.kinds:
      continue
    began = time.monotonic()
    results[name] = try_one(name, args.code.resolve())
    print(f'{time.monotonic() - began:6.1f} s  {name}  {results[name]}')
  if args.json:
    pathlib.Path(args.json).write_text(json.dumps(results, indent=1) + '\n')
  before = args.before and json.loads(pathlib.Path(args.before).read_text())
  print('\n' + '\n'.join(table(results, before)))
  return int(any(outcome != 'held' for outcome in results.values()))


if __name__ == '__main__':
  sys.exit(main())
