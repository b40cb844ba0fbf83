"""Compares methods over seeds: `python -m kd_jax.compare FILE... `.

Each file is what `python -m kd_jax.main --seeds 0,1,2` wrote at its end
(`seeds-0-1-2.json`). The table, in Markdown, has each method's mean and
standard deviation, and its paired differences, seed by seed, from the student
alone and from a reference method.
"""

from collections.abc import Mapping, Sequence
import json
import sys
from typing import Any

from etils import epath

from kd_jax import command, errors, report


@command.reporting()
def main(argv: Sequence[str]) -> int:
  """Prints the table of the files that the command line names."""
  parser = command.parser('kd_jax.compare', __doc__)
  parser.add_argument('files', nargs='+', help='seeds-*.json of kd_jax.main')
  parser.add_argument(
    '--reference',
    default='kd',
    help='the method that others are compared with (default: kd)',
  )
  args = parser.parse_args(argv)
  print(table([read(path) for path in args.files], args.reference))
  return 0


def read(path: str) -> dict[str, Any]:
  """The figures of one file.

  Raises:
    UsageError: where it is no such file.
  """
  try:
    found = json.loads(epath.Path(path).read_text())
    _ = found['config']['method'], found['seeds'], found['top1']
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise errors.UsageError(
      f'{path!r} is not what kd_jax.main --seeds writes (seeds-0-1-2.json): '
      f'{type(error).__name__}: {error}'
    ) from error
  return found


def table(runs: Sequence[Mapping[str, Any]], reference: str) -> str:
  """A Markdown table of runs in the order they are given.

  Args:
    runs: what `read` gives, all with the same seeds and data.
    reference: the method of one of them.

  Raises:
    UsageError: where the runs cannot be paired.
  """
  _check(runs, reference)
  # Of two runs of one method the first is the reference.
  other = next((r for r in runs if r['config']['method'] == reference), None)
  rows = [
    ['method', 'student', 'top-1', 'std', 'from alone', f'from {reference}'],
    ['---', '---', '---:', '---:', '---:', '---:'],
  ]
  for run in runs:
    found = report.spread(run['top1'])
    rows.append(
      [
        f'`{run["config"]["method"]}`',
        _student(run['config']),
        f'{found["mean"]:.2f}',
        f'{found["std"]:.2f}',
        _difference(run['top1'], run.get('alone_top1')),
        '' if run is other or other is None
        else _difference(run['top1'], other['top1'])
        if _student(run['config']) == _student(other['config'])
        else 'other network',
      ]
    )  # fmt: skip
  lines = ['| ' + ' | '.join(row) + ' |' for row in rows]
  first = runs[0]
  lines += [
    '',
    f'Top-1 (%) on test after the last epoch, {len(first["seeds"])} seeds '
    f'({", ".join(map(str, first["seeds"]))}), {_data(first)}. Paired '
    'differences with their standard error; * is more than two of them.',
  ]
  return '\n'.join(lines)


def _check(runs: Sequence[Mapping[str, Any]], reference: str) -> None:
  for key, of in (('seeds', lambda r: r['seeds']), ('data', _data)):
    kinds = {json.dumps(of(run)) for run in runs}
    if len(kinds) > 1:
      raise errors.UsageError(
        f'the files differ in {key}: {" and ".join(sorted(kinds))}; a paired '
        'comparison needs the same'
      )
  methods = [run['config']['method'] for run in runs]
  if len(runs) > 1 and reference not in methods:
    raise errors.unknown('--reference', reference, methods)


def _data(run: Mapping[str, Any]) -> str:
  data = run['config']['data']
  size = f', {data["train_size"]} training images' if data['train_size'] else ''
  return f'{data["name"]}{size}'


def _student(config: Mapping[str, Any]) -> str:
  widths = config['student']['args'].get('widths')
  wide = f' ({"-".join(map(str, widths))})' if widths else ''
  return f'{config["student"]["name"]}{wide}'


def _difference(ours: Sequence[float], theirs: Sequence[float] | None) -> str:
  if theirs is None:
    return 'not trained'
  pairs = zip(ours, theirs, strict=True)
  found = report.spread([a - b for a, b in pairs])
  star = '*' if abs(found['mean']) > 2 * found['sem'] else ''
  return f'{found["mean"]:+.2f} ± {found["sem"]:.2f}{star}'


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
