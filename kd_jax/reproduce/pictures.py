"""The two pictures of the results page."""

from collections.abc import Iterable, Mapping, Sequence
import pathlib
import statistics
from typing import Any

from kd_jax import tasks
from kd_jax.reproduce import compared, page, store
from kd_jax.reproduce.cells import Cell

# What the text entry of a picture with the digest of its results is called.
DIGEST = 'Results'


def draw(
  cells: Sequence[Cell], results: pathlib.Path, folder: pathlib.Path
) -> None:
  """Draws both pictures.

  Args:
    cells: The cells, in the order of the page.
    results: The folder of results.
    folder: The folder that takes the PNG files.
  """
  rows = compared.rows(cells, results)
  digest = compared.digest(cells, results)
  pictures = (_published(rows), _curves(rows, cells, results))
  for name, picture in zip(page.PICTURES, pictures, strict=True):
    picture.savefig(folder / name, dpi=120, metadata={DIGEST: digest})


def _published(rows: Sequence[compared.Row]) -> Any:
  """Draws published numbers and ours, a line for each cell."""
  from matplotlib import figure

  height = 1.6 + 0.5 * max(1, len(rows))
  picture = figure.Figure(figsize=(10, height), layout='constrained')
  axes = picture.subplots()
  names = []
  for at, row in enumerate(rows):
    n = row.last.n
    names.append(f'{row.cell.recipe} ({n} seed{"s" if n > 1 else ""})')
    for ours, offset, marker, label in (
      (row.last, 0.12, 'o', 'ours, last epoch'),
      (row.best, -0.12, 's', 'ours, best epoch'),
    ):
      axes.errorbar(
        ours.mean,
        at + offset,
        xerr=ours.half,
        fmt=marker,
        color='C0' if marker == 'o' else 'C1',
        capsize=3,
        label='' if at else label,
      )
    if row.cell.quotable is not None:
      protocol = row.cell.protocol
      axes.plot(
        row.cell.quotable,
        at + (-0.12 if protocol == 'best' else 0.12),
        'D',
        color='black',
        fillstyle='none',
        markersize=9,
        label='' if at else 'published, at the height of its protocol',
      )
  axes.set_yticks(range(len(names)), names)
  axes.set_ylim(max(1, len(rows)) - 0.5, -0.5)
  axes.set(
    xlabel='top-1 or mIoU on test (%)',
    title='Published and ours; bars are 95% intervals over seeds',
  )
  axes.grid(visible=True, axis='x', alpha=0.4)
  if rows:
    axes.legend(loc='upper left', bbox_to_anchor=(1.0, 1.0))
  return picture


def _curves(
  rows: Sequence[compared.Row], cells: Sequence[Cell], results: pathlib.Path
) -> Any:
  """Draws the figure on test over epochs, the mean over seeds, of each cell."""
  from matplotlib import figure

  picture = figure.Figure(figsize=(10, 5), layout='constrained')
  axes = picture.subplots()
  number = 0
  for row in rows:
    by_epoch: dict[float, list[float]] = {}
    for held in row.held.values():
      for epoch, value in _measured(held['metrics']):
        by_epoch.setdefault(epoch, []).append(value)
    means = [statistics.fmean(values) for values in by_epoch.values()]
    color = f'C{number % 10}'
    n = row.last.n
    label = f'{row.cell.recipe}, {n} seed{"s" if n > 1 else ""}'
    axes.plot([*by_epoch], means, color=color, linewidth=1.2, label=label)
    if row.cell.quotable is not None:
      axes.axhline(
        row.cell.quotable,
        color=color,
        linestyle=':',
        label=f'published ({row.cell.protocol} epoch)',
      )
    number += 1
  for cell in cells:
    for seed, records in store.unfinished_metrics(results, cell).items():
      points = _measured(records)
      axes.plot(
        [epoch for epoch, _ in points],
        [value for _, value in points],
        '--',
        color=f'C{number % 10}',
        linewidth=1.2,
        label=f'{cell.recipe}, seed {seed}, unfinished',
      )
      number += 1
  axes.set(
    xlabel='epoch', ylabel='top-1 or mIoU on test (%)', title='Learning curves'
  )
  axes.grid(visible=True, alpha=0.4)
  if number:
    axes.legend(loc='lower right')
  return picture


def _measured(
  records: Iterable[Mapping[str, Any]],
) -> list[tuple[float, float]]:
  names = [f'test/{task.headline.name}' for task in tasks.TASKS.values()]
  return [
    (record['epoch'], record[name])
    for record in records
    for name in names
    if name in record
  ]
