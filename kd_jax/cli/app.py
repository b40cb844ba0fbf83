"""The command `kd-jax VERB`, which calls the verb's command."""

from collections.abc import Sequence
import importlib
from typing import NamedTuple

from kd_jax import errors
from kd_jax.runtime import command
from kd_jax.version import __version__


class Verb(NamedTuple):
  """A verb of `kd-jax`.

  Attributes:
    module: The module whose `main(argv)` executes the verb.
    help: One line for the help text.
  """

  module: str
  help: str


VERBS = {
  'train': Verb('kd_jax.cli.train', 'trains a student: --config fpd'),
  'sweep': Verb(
    'kd_jax.cli.sweep', 'trains a grid: --config kd --set weights.kd=0.5,0.9'
  ),
  'evaluate': Verb(
    'kd_jax.cli.evaluate', 'measures a trained network, class by class'
  ),
  'export': Verb(
    'kd_jax.cli.export', 'writes a trained network for use without kd_jax'
  ),
  'predict': Verb('kd_jax.cli.predict', 'predicts the classes of image files'),
  'compare': Verb(
    'kd_jax.cli.compare',
    'compares finished runs, with differences paired by seed',
  ),
  'look': Verb(
    'kd_jax.cli.look', 'draws what finished runs have learned, side by side'
  ),
  'reproduce': Verb(
    'kd_jax.cli.reproduce', 'repeats published numbers, and reports them'
  ),
  'prepare': Verb(
    'kd_jax.cli.prepare', 'writes ImageNet from its archives, ready to train on'
  ),
  'list': Verb(
    'kd_jax.cli.listing', 'shows methods, networks, recipes, data or keys'
  ),
  'benchmark': Verb('kd_jax.benchmark', 'times training steps on this device'),
}


def usage() -> str:
  """Returns the text of `kd-jax --help`."""
  width = max(map(len, VERBS))
  verbs = (f'  {name:{width}}  {verb.help}' for name, verb in VERBS.items())
  return (
    'usage: kd-jax VERB [argument ...]\n\n'
    + '\n'.join(verbs)
    + '\n\n`kd-jax VERB --help` shows the arguments; `kd-jax --version` the '
    'version.'
  )


@command.reporting()
def main(argv: Sequence[str]) -> int:
  """Executes a verb and returns the exit code.

  Args:
    argv: The verb and its arguments.
  """
  name, *rest = argv or ['--help']
  if name in ('-h', '--help', 'help'):
    print(usage())
    return 0
  if name == '--version':
    print(f'kd_jax {__version__}')
    return 0
  if name not in VERBS:
    raise errors.unknown('verb', name, VERBS)
  return importlib.import_module(VERBS[name].module).main(rest)


def start() -> None:
  """Runs the command line; the entry point of the console script."""
  command.process(main)
