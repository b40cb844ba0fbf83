"""Published numbers beside ours: means, deviations and intervals."""

from collections.abc import Mapping, Sequence
import hashlib
import json
import pathlib
from typing import Any, NamedTuple

from kd_jax import tasks
from kd_jax.reproduce import store
from kd_jax.reproduce.cells import Cell
from kd_jax.study.spread import Spread, spread


class Row(NamedTuple):
  """A cell of which something was run.

  Attributes:
    cell: The cell.
    held: The files of its finished runs by seed.
    last: Top-1 or mIoU (%) of the last epochs over seeds.
    best: The same of the epochs that are best on test.
    difference: Ours less the published number, ours by the same protocol; None
      if no number may be quoted.
  """

  cell: Cell
  held: Mapping[int, Mapping[str, Any]]
  last: Spread
  best: Spread
  difference: Spread | None


def figure(held: Mapping[str, Any]) -> float:
  """Returns the headline of a run, after the last epoch, in percent.

  Args:
    held: What `store` holds of the run.
  """
  result = held['result']
  return float(result[tasks.headline(result).name])


def rows(cells: Sequence[Cell], results: pathlib.Path) -> list[Row]:
  """Returns the cells that have a finished run.

  Args:
    cells: The cells.
    results: The folder of results.
  """
  found = []
  for cell in cells:
    held = store.stand(results, cell).done
    if not held:
      continue
    last = spread([figure(each) for each in held.values()])
    best = spread([each['result']['best_on_test'] for each in held.values()])
    difference = None
    if (published := cell.quotable) is not None:
      ours = best if cell.protocol == 'best' else last
      difference = ours._replace(mean=ours.mean - published)
    found.append(Row(cell, held, last, best, difference))
  return found


def paired(row: Row, all_rows: Sequence[Row]) -> Spread | None:
  """Returns the differences from the student alone, seed by seed.

  Args:
    row: The row of a method.
    all_rows: The rows among which the student alone may be.

  Returns:
    Ours less that of the student alone, after the last epoch; None if no seed
    has both.
  """
  for other in all_rows:
    if other.cell.recipe == row.cell.alone:
      seeds = [seed for seed in row.held if seed in other.held]
      if seeds:
        return spread(
          [figure(row.held[seed]) - figure(other.held[seed]) for seed in seeds]
        )
  return None


def digest(cells: Sequence[Cell], results: pathlib.Path) -> str:
  """Returns a hash of all that the page and its pictures show."""
  shown = []
  for cell in cells:
    stand = store.stand(results, cell)
    shown.append([list(cell), stand.done, stand.unfinished])
  text = json.dumps(shown, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()
