"""Trains a network: `python -m kd_jax.main --config configs/fpd.py`.

Exit codes: 0 done, 1 failed, 2 wrong usage, 75 stopped and saved, 76 ended by
the watchdog, 130 stopped by Ctrl-C and saved, 134 ended by the runtime because
another process had ended. After the last four, start the same command again.
"""

from collections.abc import Callable, Sequence
import contextlib
import functools
import hashlib
import os
import sys
from typing import Any

from absl import app, flags
from etils import epath
from ml_collections import ConfigDict, config_flags

from kd_jax import config as config_lib
from kd_jax.cli import configured, starting
from kd_jax.runtime import command, distributed, run_dir
from kd_jax.study import seeds as seeds_lib
from kd_jax.study import trained
from kd_jax.training import provenance, report, together
from kd_jax.training import run as run_lib

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'FILE[:recipe]; --config.a.b=value changes a value.'
)
_WORKDIR_HELP = 'Run folder; by default runs/<config>-<recipe>-<hash>.'
_SEEDS_HELP = 'Seeds to run one after the other, such as 0,1,2.'
_TOGETHER_HELP = 'Train all seeds at once, in one program on the same devices.'
_WORKDIR = flags.DEFINE_string('workdir', None, _WORKDIR_HELP)
_SEEDS = flags.DEFINE_string('seeds', None, _SEEDS_HELP)
_TOGETHER = flags.DEFINE_bool('together', False, _TOGETHER_HELP)

_LONGEST = 100  # characters of the seeds in a file's name

EXIT_CODES = {
  **command.EXIT_CODES,
  run_lib.Interrupted: distributed.START_AGAIN,
  starting.CtrlC: starting.CTRL_C,
}


def _train(argv: Sequence[str]) -> int:
  """Trains with each seed, prints the results and returns the exit code.

  Args:
    argv: The program's name; flags are already parsed.

  Raises:
    UsageError: An argument is wrong or --config is missing.
  """
  if len(argv) > 1:
    raise configured.stray(argv[1])
  if not flags.FLAGS['config'].present:
    raise configured.missing()
  config_lib.checked(_CONFIG.value, '--config')
  given = _SEEDS.value
  seeds = [_CONFIG.value.seed] if given is None else starting.seeds(given)
  _before_jax_starts(_CONFIG.value)
  if _TOGETHER.value:
    starting.check_together(seeds, distributed.count())
  with starting.stopping() as stop:
    _train_seeds(seeds, stop)
  return 0


def _train_seeds(seeds: Sequence[int], stop: Callable[[], bool]) -> None:
  """Trains with each seed, and prints the results."""
  observe = _begins()

  def train(
    seed: int, label: str = '', member: together.Member | None = None
  ) -> tuple[dict[str, Any], dict[str, Any] | None]:
    config = _CONFIG.value.copy_and_resolve_references()
    config.seed = seed
    folder = _folder(config, several=len(seeds) > 1)
    result, alone = trained.run(
      config, folder, label, should_stop=stop, observe=observe, member=member
    )
    text = report.closing(config.method, result, alone)
    distributed.say(*text.split('\n'))
    distributed.say(f'folder: {folder.path}')
    return result, alone

  tasks = {f'seed {seed}': functools.partial(train, seed) for seed in seeds}
  if _TOGETHER.value:
    done = together.Meeting(tasks).run()
  else:
    done = [train(label * (len(seeds) > 1)) for label, train in tasks.items()]
  if len(seeds) > 1:
    results, baselines = zip(*done, strict=True)
    summary_text, figures = seeds_lib.summary(results, baselines)
    distributed.say(*summary_text.split('\n'))
    shared = _CONFIG.value.copy_and_resolve_references()
    shared.seed = 0  # the file's name lists the seeds of the runs
    summary = _folder(shared, several=False, prefix='seeds-')
    name = _name_of_summary(seeds)
    config = config_lib.plain(_CONFIG.value)
    summary.write(name, {**figures, 'config': config, **provenance.found()})
    distributed.say(f'figures: {summary.path / name}')


def _begins() -> Callable[[run_lib.Progress], None]:
  """Returns what writes where each network begins, for a launcher.

  The launcher names the file in $KD_JAX_BEGINS. Two starts that write the same
  had no new checkpoint between them.
  """
  path, known = os.environ.get('KD_JAX_BEGINS'), set()

  def observe(progress: run_lib.Progress) -> None:
    if path and progress.folder not in known:
      known.add(progress.folder)
      with contextlib.suppress(OSError), open(path, 'a') as file:
        file.write(f'{progress.folder} {progress.step}\n')

  return observe


def _before_jax_starts(config: ConfigDict) -> None:
  """Applies the settings that JAX needs before the first use of a device."""
  starting.before_jax_starts(
    deterministic=config.deterministic, cache_dir=config.cache_dir
  )
  distributed.start(config.heartbeat_timeout_seconds)


def _name_of_summary(seeds: Sequence[int]) -> str:
  """Returns the name of the file of several seeds' figures.

  It lists the seeds, or has their digest where a file's name would be too long.
  """
  listed = '-'.join(map(str, seeds))
  if len(listed) > _LONGEST:
    digest = hashlib.sha256(listed.encode()).hexdigest()[:16]
    listed = f'{len(seeds)}-{digest}'
  return f'seeds-{listed}.json'


def _folder(
  config: ConfigDict, *, several: bool, prefix: str = ''
) -> run_dir.Folder:
  if _WORKDIR.value:
    workdir = epath.Path(_WORKDIR.value)
    return run_dir.Folder(
      workdir / f'seed{config.seed}' if several else workdir
    )
  config_flag: Any = flags.FLAGS['config']
  file = config_flag.config_filename.partition(':')[0]
  parts = [epath.Path(file).stem, config.recipe]
  parts.append(prefix + config_lib.digest(config))
  return run_dir.Folder(epath.Path('runs') / '-'.join(filter(None, parts)))


def _parsed(argv: list[str]) -> list[str]:
  """Parses the flags as absl does, but raises UsageError for each mistake."""
  with configured.mistakes(argv, ('config', 'workdir', 'seeds', 'together')):
    return flags.FLAGS(argv)


def _usage() -> str:
  return (
    'usage: kd-jax train --config FILE[:recipe] [--config.a.b=value ...] '
    '[--workdir DIR] [--seeds 0,1,2 [--together]]\n\n'
    '  --config   a file of configs/ by its name or path, and a recipe in it; '
    '`kd-jax list recipes`\n'
    '  --config.a.b=value   changes a value; `kd-jax list keys`\n'
    f'  --workdir  {_WORKDIR_HELP}\n'
    f'  --seeds    {_SEEDS_HELP}\n'
    f'  --together   {_TOGETHER_HELP}\n\n'
    'Exit codes: 0 done, 1 a fault, 2 wrong usage, 75 stopped and saved, 76 '
    'ended by the watchdog,\n130 stopped by Ctrl-C and saved, 134 ended by the '
    'runtime because another process had ended;\nafter the last four, start '
    'the same command again.'
  )


def _said_plainly(argv: Sequence[str]) -> int:
  """Calls `_train`, and raises RunError if the storage refuses a write."""
  with starting.storage():
    return _train(argv)


@command.reporting(EXIT_CODES, leave=distributed.leave)
def _run(argv: Sequence[str]) -> None:
  # config_flags reads overrides from sys.argv
  sys.argv = ['kd-jax train', *configured.in_order(argv)]
  app.run(_said_plainly, argv=sys.argv, flags_parser=_parsed)


def main(argv: Sequence[str]) -> int:
  """Trains as the arguments say, and ends the process.

  Args:
    argv: The arguments after the verb.

  Raises:
    SystemExit: Always, with the exit code.
  """
  if {'-h', '--help', '--helpfull'} & {*argv}:
    print(_usage())
    sys.exit(0)
  sys.exit(_run(argv))


def start() -> None:
  """Runs the command line; the entry point of `python -m kd_jax.main`."""
  command.process(main)
