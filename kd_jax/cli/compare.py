"""Compares methods over seeds: `kd-jax compare FILE... `.

Each file is what `python -m kd_jax.main --seeds 0,1,2` wrote at its end
(`seeds-0-1-2.json`). The table, in Markdown, has each method's mean and
standard deviation, and its paired differences, seed by seed, from the student
alone and from a reference method. Files of other data or seeds are refused;
where network, epochs, batch size or teacher are not the reference's, the table
says so in place of a difference.
"""

from collections.abc import Mapping, Sequence
import json
from typing import Any

from etils import epath

from kd_jax import errors
from kd_jax.runtime import command
from kd_jax.training import report


@command.reporting()
def main(argv: Sequence[str]) -> int:
  """Prints the table of the files that the command line names."""
  parser = command.parser('kd-jax compare', __doc__)
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
    _ = _data(found), _recipe(found)
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
        '' if run is other or other is None else _from(run, other),
      ]
    )
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
  parts = [data['name']]
  if data['train_size']:
    parts.append(f'{data["train_size"]} training images')
  if data['val_fraction']:
    parts.append(f'{data["val_fraction"]:g} of them held out')
  if data['image_size']:
    parts.append(f'{data["image_size"]} pixels')
  return ', '.join(parts)


def _student(config: Mapping[str, Any]) -> str:
  widths = config['student']['args'].get('widths')
  wide = f' ({"-".join(map(str, widths))})' if widths else ''
  return f'{config["student"]["name"]}{wide}'


def _from(run: Mapping[str, Any], other: Mapping[str, Any]) -> str:
  """The difference from `other`, or what else than the method is not its."""
  ours, theirs = _recipe(run), _recipe(other)
  differ = [
    name
    for name, value in ours.items()
    if None not in (value, theirs[name]) and value != theirs[name]
  ]
  if differ:
    return f'other {", ".join(differ)}'
  return _difference(run['top1'], other['top1'])


def _recipe(run: Mapping[str, Any]) -> dict[str, Any]:
  """What two runs share where the method alone differs, by name.

  None agrees with everything: a method without a teacher is compared with one
  that has it, and a file may lack its teacher's accuracy. Phases and a
  teacher's mode of batch statistics are the method's.
  """
  config = run['config']
  teacher = config['teacher']
  args = {k: v for k, v in teacher['args'].items() if k != 'batch_norm'}
  origin = teacher['path'] or teacher['recipe']
  return {
    'network': config['student'],
    'epochs': config['epochs'],
    'batch size': config['batch_size'],
    'teacher': [teacher['name'], args, origin] if teacher['name'] else None,
    'teacher top-1': run.get('teacher_top1'),
  }


def _difference(ours: Sequence[float], theirs: Sequence[float] | None) -> str:
  if theirs is None:
    return 'not trained'
  pairs = zip(ours, theirs, strict=True)
  found = report.spread([a - b for a, b in pairs])
  star = '*' if abs(found['mean']) > 2 * found['sem'] else ''
  return f'{found["mean"]:+.2f} ± {found["sem"]:.2f}{star}'
