"""Compares finished runs: `kd-jax compare PATH...`.

A path is a run's folder, a folder somewhere in which there are runs, or a file
that `--seeds` writes (seeds-0-1-2.json). The output is a Markdown table, where
runs that differ in the seed alone are one row. It has the mean and standard
deviation over the seeds, and the mean differences, paired by seed, from the
student alone and from a reference row. If a row's data, network, epochs, batch
size or teacher differ from the reference's, the table names them in place of
the difference. What is left out is said below the table.
"""

from collections.abc import Sequence
import json

from etils import epath

from kd_jax import errors
from kd_jax.runtime import command
from kd_jax.study import compare, finished, groups


@command.reporting()
def main(argv: Sequence[str]) -> int:
  """Prints the table of the given runs and returns the exit code.

  Args:
    argv: The arguments after the verb.
  """
  parser = command.parser('kd-jax compare', __doc__)
  parser.add_argument(
    'paths',
    nargs='+',
    metavar='PATH',
    help="a run's folder, a folder of such, or seeds-*.json",
  )
  parser.add_argument(
    '--reference',
    help='the row that others are compared with: a method or a label, such as '
    "'kd weights.kd=0.5' (default: kd, else the first)",
  )
  parser.add_argument('--json', help='a file that takes the figures')
  args = parser.parse_args(argv)
  found = finished.find(args.paths)
  grouped, left_out = groups.group(found.runs)
  figures = compare.figures(
    grouped, args.reference, [*found.left_out, *left_out]
  )
  print(compare.markdown(figures))
  if args.json:
    try:
      epath.Path(args.json).write_text(json.dumps(figures, indent=2) + '\n')
    except OSError as error:
      raise errors.UsageError(
        f'--json={args.json}: cannot write: {error.strerror or error}'
      ) from error
  return 0
