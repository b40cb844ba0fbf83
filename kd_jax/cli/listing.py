"""Lists names: `kd-jax list methods|networks|recipes|data|keys|optimizers`."""

from collections.abc import Callable, Sequence
import functools
import importlib.util
import inspect
import json
import pathlib
import types

from kd_jax import config as config_lib
from kd_jax import data, errors
from kd_jax.cli import networks
from kd_jax.distill import optimizers
from kd_jax.methods import registry
from kd_jax.runtime import command


def methods() -> list[tuple[str, str]]:
  """Returns all methods, with the first paragraph of the module's docstring."""
  rows = []
  for name in registry.names():
    module = inspect.getmodule(registry.method_class(name))
    rows.append((name, _first_line(module)))
  return rows


def recipes() -> list[tuple[str, str]]:
  """Returns all recipes, named as for `--config`, with a description."""
  rows = []
  for path in config_lib.files():
    module = _loaded(path)
    for name, recipe in module.RECIPES.items():
      description = _first_line(recipe)
      rows.append((f'{path.stem}:{name}', description or _first_line(module)))
  return rows


def data_sets() -> list[tuple[str, str]]:
  """Returns all data sets with a description."""
  return list(data.SETS.items())


def keys(recipe: str = '') -> list[tuple[str, str]]:
  """Returns every key of a configuration with its value and its meaning.

  Args:
    recipe: The recipe whose values are shown; '' shows the defaults.

  Raises:
    UsageError: The recipe is unknown.
  """
  config = config_lib.load(recipe) if recipe else config_lib.default()
  rows = []
  for key in config_lib.KEYS:
    value = functools.reduce(getattr, key.path.split('.'), config)
    if hasattr(value, 'to_dict'):
      value = value.to_dict()
    choices = ''
    if key.choices:
      choices = f' One of {", ".join(repr(c) for c in key.choices)}.'
    rows.append(
      (f'config.{key.path}={json.dumps(value)}', f'{key.help}{choices}')
    )
  return rows


def optimizer_names() -> list[tuple[str, str]]:
  """Returns all optimizers with their arguments and what weight decay is."""
  rows = []
  for name, kind in optimizers.KINDS.items():
    known = optimizers.arguments(name).items()
    args = ', '.join(f'{key}={default}' for key, default in known)
    rows.append((name, f'{args or "no arguments"}; weight decay {kind.decay}'))
  return rows


KINDS: dict[str, Callable[[], list[tuple[str, str]]]] = {
  'methods': methods,
  'recipes': recipes,
  'data': data_sets,
  'keys': keys,
  'optimizers': optimizer_names,
}


def _first_line(documented: object) -> str:
  return (inspect.getdoc(documented) or '').split('\n\n')[0].replace('\n', ' ')


def _loaded(path: pathlib.Path) -> types.ModuleType:
  spec = importlib.util.spec_from_file_location(f'_recipes_{path.stem}', path)
  assert spec is not None
  assert spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@command.reporting()
def main(argv: Sequence[str]) -> int:
  """Prints the list of one kind of names and returns the exit code.

  Args:
    argv: The arguments after the verb.
  """
  kinds = (*KINDS, 'networks')
  parser = command.parser('kd-jax list', __doc__)
  parser.add_argument('kind', help=', '.join(kinds))
  args, rest = parser.parse_known_args(argv)
  if args.kind == 'networks':
    return networks.main(rest)
  if args.kind not in KINDS:
    raise errors.unknown('kind', args.kind, kinds)
  if rest and (args.kind != 'keys' or len(rest) > 1):
    raise errors.UsageError(f'unexpected argument {rest[-1]!r}')
  rows = keys(*rest) if args.kind == 'keys' else KINDS[args.kind]()
  width = min(40, max(len(name) for name, _ in rows))
  print('\n'.join(f'{name:{width}}  {text}' for name, text in rows))
  return 0
