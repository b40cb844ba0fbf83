"""The table of published numbers (cells.toml) and the recipe of each."""

from collections.abc import Mapping
import importlib.resources
import pathlib
import tomllib
from typing import Any, NamedTuple

from kd_jax import errors

PROTOCOLS = ('best', 'last', 'unknown')
CERTAINTIES = {
  'code': 'a README, configuration or log that comes with code',
  'paper': 'the paper, its abstract or its poster',
  'others': 'a table of other authors, whose recipe may differ',
  'recalled': 'memory, not verified: no page quotes the number',
  'none': 'no number is published',
}


class Cell(NamedTuple):
  """One published number and the recipe that repeats it.

  Attributes:
    recipe: The recipe, as `--config` takes it; it names the cell.
    paper: The paper of the method.
    table: Where the number stands.
    data: The data set.
    teacher: The teacher's network; '' without a teacher.
    student: The student's network.
    certainty: How certain the number is, a key of `CERTAINTIES`.
    published: Top-1 in percent; None if no number is published.
    protocol: Which epoch it is of, one of `PROTOCOLS`.
    n: The runs behind it; None if that is not known.
    spread: Their standard deviation; None if it is not known.
    alone: The recipe of the student alone by the same recipe; '' if none is.
    note: What else a reader must know.
  """

  recipe: str
  paper: str
  table: str
  data: str
  teacher: str
  student: str
  certainty: str
  published: float | None = None
  protocol: str = 'unknown'
  n: int | None = None
  spread: float | None = None
  alone: str = ''
  note: str = ''

  @property
  def name(self) -> str:
    """The name of the cell's folder."""
    file, _, recipe = self.recipe.partition(':')
    return f'{pathlib.PurePath(file).stem}-{recipe}'

  @property
  def quotable(self) -> float | None:
    """The published number, if it may be quoted."""
    return None if self.certainty == 'recalled' else self.published


def load(path: str = '') -> list[Cell]:
  """Returns the cells of a table, in its order.

  Args:
    path: A TOML file as cells.toml is; '' is cells.toml itself.

  Raises:
    UsageError: The file cannot be read, or a cell in it is wrong.
  """
  try:
    if path:
      text = pathlib.Path(path).read_text(encoding='utf-8')
    else:
      here = importlib.resources.files('kd_jax.reproduce')
      text = (here / 'cells.toml').read_text(encoding='utf-8')
    tables = tomllib.loads(text)
    cells = [
      _cell(_shared(group, 'cells') | row)
      for group in tables['group']
      for row in group['cells']
    ]
    for grid in tables.get('grid', ()):
      cells += _of_grid(grid)
  except (OSError, ValueError, KeyError, TypeError) as error:
    if isinstance(error, errors.UsageError):
      raise errors.UsageError(f'{path or "cells.toml"}: {error}') from error
    raise errors.UsageError(
      f'{path!r} is no table of cells ({type(error).__name__}: {error}); '
      'kd_jax/reproduce/cells.toml is one'
    ) from error
  names = [cell.name for cell in cells]
  if twice := {name for name in names if names.count(name) > 1}:
    raise errors.UsageError(
      f'{path or "cells.toml"}: a recipe has one cell; '
      f'{", ".join(sorted(twice))} has two'
    )
  return cells


def choose(cells: list[Cell], recipes: list[str]) -> list[Cell]:
  """Returns the cells of some recipes, in the order of `recipes`.

  Raises:
    UsageError: A recipe has no cell.
  """
  known = {cell.recipe: cell for cell in cells}
  for recipe in recipes:
    if recipe not in known:
      raise errors.unknown('cell', recipe, known)
  return [known[recipe] for recipe in dict.fromkeys(recipes)]


# What is known of data sets that may come from elsewhere under another name.
SIZES = {
  'cifar10': {'classes': 10, 'num_train': 50_000, 'num_test': 10_000},
  'cifar100': {'classes': 100, 'num_train': 50_000, 'num_test': 10_000},
  'tiny_imagenet': {
    'classes': 200,
    'num_train': 100_000,
    'num_test': 10_000,
  },
  'digits': {'classes': 10, 'num_test': 360},
  'imagenet2012': {
    'classes': 1000,
    'num_train': 1_281_167,
    'num_test': 50_000,
  },
}


def other_data(
  cell: Cell, name: str | None, opened: Mapping[str, Any]
) -> list[str]:
  """Returns how data differ from those of a cell, as lines.

  The data set's name is the cell's, or that of a folder, a file or a function
  of the user's own, whose sizes then are the cell's as far as both are known;
  for a cell on Pascal VOC it is another folder of VOC.

  Args:
    cell: The cell.
    name: The data set's name; None if it is not known.
    opened: What is known of it: 'class_names', 'num_train' and 'num_test'.
  """
  if name is None or name == cell.data:
    return []
  kind, colon, _ = cell.data.partition(':')
  if ':' not in name or (colon and kind != name.partition(':')[0]):
    return [f'config.data.name: {name!r} there, {cell.data!r} here']
  found = dict(opened)
  if 'class_names' in found:
    found['classes'] = len(found['class_names'])
  return [
    f'data {name}: {key}={found[key]}, and {cell.data} has {size}'
    for key, size in SIZES.get(cell.data, {}).items()
    if found.get(key, size) != size
  ]


def _of_grid(grid: dict[str, Any]) -> list[Cell]:
  """Returns the cells of a table of methods and pairs, as papers print it."""
  shared = _shared(grid, 'pairs', 'numbers', 'papers')
  cells = []
  for method, numbers in grid['numbers'].items():
    row = shared | {'paper': grid['papers'][method]}
    for pair, number in zip(grid['pairs'], numbers, strict=True):
      recipe = f'{method}:{pair["recipe"]}'
      if number != '-':
        cells.append(
          _cell(row | pair | {'recipe': recipe, 'published': number})
        )
  return cells


def _shared(group: dict[str, Any], *others: str) -> dict[str, Any]:
  """Returns a group without the keys that are not of its cells."""
  return {key: value for key, value in group.items() if key not in others}


def _cell(values: dict[str, Any]) -> Cell:
  recipe = values.get('recipe', '?')
  required = {*Cell._fields} - {*Cell._field_defaults}
  if missing := required - values.keys():
    raise errors.UsageError(f'{recipe} lacks {", ".join(sorted(missing))}')
  for key in values:
    if key not in Cell._fields:
      raise errors.unknown(f'key of {recipe}', key, Cell._fields)
  cell = Cell(**values)
  for key, allowed in (('protocol', PROTOCOLS), ('certainty', CERTAINTIES)):
    if getattr(cell, key) not in allowed:
      raise errors.unknown(f'{key} of {recipe}', getattr(cell, key), allowed)
  if (cell.published is None) != (cell.certainty == 'none'):
    raise errors.UsageError(
      f'{recipe}: a cell has a published number, or the certainty "none"'
    )
  return cell
