"""Trains a grid: `kd-jax sweep --config kd --set weights.kd=0.5,0.9`.

Every combination of the values is trained with each of `--seeds`, one run after
the other, and the runs are compared as `kd-jax compare` does. The same command,
started again, goes on and skips what is finished. `--config.a.b=value` changes
a value of all runs. Values are separated by commas outside of brackets and
quotes: `--set 'student.args.widths=(4,4,8,16),(8,8,16,32)'`.

Exit codes: 0 done, 1 a run failed, 2 wrong usage, 75 stopped and saved: start
the same command again.
"""

from collections.abc import Sequence

from etils import epath
from ml_collections import ConfigDict

from kd_jax import config as config_lib
from kd_jax import errors
from kd_jax.cli import configured, starting
from kd_jax.runtime import command, distributed
from kd_jax.study import compare, grid, sweep
from kd_jax.training import provenance
from kd_jax.training import run as run_lib

_EXIT_CODES = {
  **command.EXIT_CODES,
  run_lib.Interrupted: distributed.START_AGAIN,
  starting.CtrlC: starting.CTRL_C,
}


@command.reporting(_EXIT_CODES, leave=distributed.leave)
def main(argv: Sequence[str]) -> int:
  """Trains a grid, prints its table and returns the exit code.

  Args:
    argv: The arguments after the verb.
  """
  parser = command.parser(
    'kd-jax sweep',
    __doc__,
    usage='kd-jax sweep --config FILE[:recipe] [--config.a.b=value ...] '
    '--set KEY=VALUE,VALUE [--set ...] [--seeds 0,1,2] [--workdir DIR]',
  )
  add = parser.add_argument
  add('--config', required=True, help='as `kd-jax train` takes it')
  add(
    '--set',
    action='append',
    default=[],
    metavar='KEY=VALUE,VALUE',
    help='a key of `kd-jax list keys` and its values; a value with commas is '
    'in brackets or quotes',
  )
  add('--seeds', help="seeds of each run, such as 0,1,2; default: the recipe's")
  add('--workdir', help='default: runs/sweep-<config>-<recipe>-<hash>')
  add(
    '--reference', help='the row that others are compared with; default: first'
  )
  args, overrides = parser.parse_known_args(argv)

  def load(more: Sequence[str]) -> ConfigDict:
    return configured.load(args.config, [*overrides, *more])

  seeds = None if args.seeds is None else starting.seeds(args.seeds)
  config = load([])
  axes = grid.axes(args.set)
  for axis in axes:
    if f'--config.{axis.key}' in {text.partition('=')[0] for text in overrides}:
      raise errors.UsageError(
        f'--set {axis.key}: --config.{axis.key} is given too; leave it out'
      )
  cells = sweep.cells(load, axes)
  starting.before_jax_starts(
    deterministic=config.deterministic, cache_dir=config.cache_dir
  )
  distributed.start(config.heartbeat_timeout_seconds)
  workdir = args.workdir or _workdir(args.config, config, axes)
  planned = sweep.plan(cells, seeds or [config.seed], workdir, args.reference)
  folder = planned.folder
  with starting.storage(), folder.lock(wait=False):
    with starting.stopping() as stop:
      failed = sweep.run(planned, should_stop=stop)
    figures = distributed.first(lambda: sweep.report(planned, failed))
    text = compare.markdown(figures)
    folder.write(
      'sweep.json',
      {
        **figures,
        'set': {axis.key: list(axis.values) for axis in axes},
        'seeds': seeds or [config.seed],
        'config': config_lib.plain(config),
        **provenance.found(),
      },
    )
    distributed.first(lambda: folder.replace('sweep.md', f'{text}\n'))
  distributed.say('', *text.split('\n'), '', f'folder: {folder.path}')
  if failed:
    raise errors.RunError(
      f'{len(failed)} of {len(planned.tasks)} runs failed: {"; ".join(failed)}'
    )
  return 0


def _workdir(
  recipe: str, config: ConfigDict, axes: Sequence[grid.Axis]
) -> epath.Path:
  """Returns the folder of a sweep, in which more values and seeds go on."""
  shared = config.copy_and_resolve_references()
  shared.seed = 0
  keys = sorted(axis.key for axis in axes)
  parts = [
    'sweep',
    epath.Path(recipe.partition(':')[0]).stem,
    config.recipe,
    config_lib.digest(shared, keys),
  ]
  return epath.Path('runs') / '-'.join(filter(None, parts))
