"""Compares methods over seeds: `kd-jax compare FILE...`.

Each file is written at the end of `python -m kd_jax.main --seeds 0,1,2`
(`seeds-0-1-2.json`). The output is a Markdown table. For each method it has the
mean and standard deviation over the seeds, and the mean differences, paired by
seed, from the student alone and from a reference method. All files must have
the same data and seeds. If a method's network, epochs, batch size or teacher
differ from the reference's, the table names them in place of the difference.
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
  """Prints the table of the given files and returns the exit code.

  Args:
    argv: The arguments after the verb.
  """
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
  """Returns the figures of a file that `--seeds` wrote.

  Args:
    path: The file's path.

  Raises:
    UsageError: The file cannot be read, or has another content.
  """
  try:
    figures = json.loads(epath.Path(path).read_text())
    _ = figures['config']['method'], figures['seeds'], figures['top1']
    _ = _data(figures), _recipe(figures)
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise errors.UsageError(
      f'{path!r} is not what kd_jax.main --seeds writes (seeds-0-1-2.json): '
      f'{type(error).__name__}: {error}'
    ) from error
  return figures


def table(runs: Sequence[Mapping[str, Any]], reference: str) -> str:
  """Returns a Markdown table with one row per run, in the given order.

  Args:
    runs: The runs' figures, as returned by `read`.
    reference: The method of the run that the others are compared with; it may
      be absent if there is only one run.

  Raises:
    UsageError: The runs differ in seeds or data, or no run has the reference
      method.
  """
  _check(runs, reference)
  # If several runs have the reference method, the first is taken.
  reference_run = next(
    (r for r in runs if r['config']['method'] == reference), None
  )
  rows = [
    ['method', 'student', 'top-1', 'std', 'from alone', f'from {reference}'],
    ['---', '---', '---:', '---:', '---:', '---:'],
  ]
  for run in runs:
    top1 = report.spread(run['top1'])
    rows.append(
      [
        f'`{run["config"]["method"]}`',
        _student(run['config']),
        f'{top1["mean"]:.2f}',
        f'{top1["std"]:.2f}',
        _difference(run['top1'], run.get('alone_top1')),
        ''
        if run is reference_run or reference_run is None
        else _from(run, reference_run),
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
    values = {json.dumps(of(run)) for run in runs}
    if len(values) > 1:
      raise errors.UsageError(
        f'the files differ in {key}: {" and ".join(sorted(values))}; a paired '
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
  """Returns the difference from `other` as text.

  If the runs differ in more than the method, it names those settings instead.
  """
  recipe, other_recipe = _recipe(run), _recipe(other)
  differ = [
    name
    for name, value in recipe.items()
    if None not in (value, other_recipe[name]) and value != other_recipe[name]
  ]
  if differ:
    return f'other {", ".join(differ)}'
  return _difference(run['top1'], other['top1'])


def _recipe(run: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the settings that must agree for runs to be compared, by name.

  None agrees with every value: a method without a teacher can be compared with
  a method with one, and a file may lack its teacher's accuracy. Phases and the
  teacher's use of batch statistics belong to the method, so they may differ.
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
  spread = report.spread([a - b for a, b in pairs])
  star = '*' if abs(spread['mean']) > 2 * spread['sem'] else ''
  return f'{spread["mean"]:+.2f} ± {spread["sem"]:.2f}{star}'
