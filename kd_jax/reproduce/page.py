"""The results page, as Markdown."""

from collections.abc import Iterable, Mapping, Sequence
import pathlib
from typing import Any

from kd_jax.reproduce import compared, store
from kd_jax.reproduce.cells import CERTAINTIES, Cell
from kd_jax.runtime import logging

PICTURES = ('results-published.png', 'results-curves.png')

_HEAD = """\
# Published numbers and ours

`kd-jax reproduce report` makes this page and its pictures from the files in
`results/` and from the table of published numbers; nothing in it is written by
hand. All numbers are top-1 (%) on the whole test split, or mIoU (%) on it where
masks are predicted. **last** is the last epoch, **best** the best on test of
the epochs that were measured, which is what many papers publish. ± is the
standard deviation over seeds.
"""

_DIFFERENCE = """\
The difference is ours less the published number, by the same protocol: our best
epoch where the best was published, else our last. The interval is the 95%
confidence interval of our mean by Student's t distribution; the uncertainty of
the published number is not in it. One seed has no interval, and says nothing of
a difference.
"""

_HOW = """\
## Add a run

```bash
kd-jax reproduce list
kd-jax reproduce run tf_fd:cifar100_r20 --seeds 0,1,2 --minutes 12
kd-jax reproduce report
```

`run` trains what is missing, the teacher first where there is one, and writes
`seed-<n>.json` into the cell's folder in `results/`. When the time is over it
saves and ends with exit code 75; the same command goes on. All cells stand in
`kd_jax/reproduce/cells.toml`; [Recipes](recipes.md) says more of each.
"""


def text(
  cells: Sequence[Cell],
  results: pathlib.Path,
  outdated: Mapping[Any, Sequence[str]] | None = None,
) -> str:
  """Returns the page.

  Args:
    cells: The cells, in the order of the page.
    results: The folder of results.
    outdated: By cell and seed, what its recipe has changed since.
  """
  rows = compared.rows(cells, results)
  parts = [_HEAD, '## What was run\n', _ran(rows)]
  if rows:
    parts += [_DIFFERENCE, _notes(rows, outdated or {})]
  if pairs := _paired(rows):
    parts += ['## Beside the student alone\n', pairs]
  if unfinished := _unfinished(cells, results):
    parts += ['## Unfinished\n', unfinished]
  parts += [
    '## Pictures\n',
    f'![Published numbers and ours, with 95% intervals]({PICTURES[0]})\n',
    f'![Top-1 on test over epochs]({PICTURES[1]})\n',
    '## Not run\n',
    _not_run(cells, {row.cell.recipe for row in rows}),
    _HOW,
  ]
  return '\n'.join(part for part in parts if part)


def _ran(rows: Sequence[compared.Row]) -> str:
  if not rows:
    return 'Nothing yet.\n'
  head = (
    'recipe', 'published', 'last', 'best', 'seeds', 'difference',
    '95% interval', 'hardware', 'commit', 'time of a run',
  )  # fmt: skip
  return _table(
    head,
    [
      (
        f'`{row.cell.recipe}`',
        published(row.cell),
        _spread(row.last),
        _spread(row.best),
        ', '.join(map(str, row.held)),
        f'{row.difference.mean:+.2f}' if row.difference else '',
        _interval(row.difference),
        _each(row, 'hardware'),
        _each(row, 'commit'),
        _each(row, 'wall_s'),
      )
      for row in rows
    ],
  )


def _notes(
  rows: Sequence[compared.Row], outdated: Mapping[Any, Sequence[str]]
) -> str:
  lines = []
  for row in rows:
    for seed, held in row.held.items():
      notes = list(held['notes'])
      if changes := outdated.get((row.cell, seed)):
        notes.append(f'the recipe has changed since: {"; ".join(changes)}')
      lines += [f'- `{row.cell.recipe}`, seed {seed}: {n}.' for n in notes]
  return '\n'.join(lines) + '\n' if lines else ''


def _paired(rows: Sequence[compared.Row]) -> str:
  lines = []
  for row in rows:
    difference = compared.paired(row, rows)
    if difference:
      lines.append(
        (
          f'`{row.cell.recipe}`',
          f'`{row.cell.alone}`',
          f'{difference.n}',
          f'{difference.mean:+.2f}',
          _interval(difference),
        )
      )
  if not lines:
    return ''
  head = ('recipe', 'alone', 'pairs', 'difference, last', '95% interval')
  return _table(head, lines)


def _unfinished(cells: Sequence[Cell], results: pathlib.Path) -> str:
  lines = [
    f'- `{cell.recipe}`, seed {seed}: stopped at epoch {epochs:.4g}; '
    f'`results/{cell.name}` holds what it goes on from.'
    for cell in cells
    for seed, epochs in store.stand(results, cell).unfinished.items()
  ]
  return '\n'.join(lines) + '\n' if lines else ''


def _not_run(cells: Sequence[Cell], ran: set[str]) -> str:
  head = (
    'recipe', 'paper', 'networks', 'data', 'published', 'where', 'certainty',
    'note',
  )  # fmt: skip
  table = _table(
    head,
    [
      (
        f'`{cell.recipe}`',
        cell.paper,
        f'{cell.teacher} to {cell.student}' if cell.teacher else cell.student,
        cell.data,
        published(cell),
        cell.table,
        cell.certainty,
        cell.note,
      )
      for cell in cells
      if cell.recipe not in ran
    ],
  )
  meanings = '; '.join(f'*{k}* is {text}' for k, text in CERTAINTIES.items())
  return f'{table}\nCertainty: {meanings}.\n'


def published(cell: Cell) -> str:
  """Returns the published number with its protocol, as far as it is known."""
  if cell.quotable is None:
    return 'not verified' if cell.published is not None else 'none'
  spread = '' if cell.spread is None else f' ± {cell.spread:.2f}'
  runs = '' if cell.n is None else f', n={cell.n}'
  protocol = 'epoch unknown' if cell.protocol == 'unknown' else cell.protocol
  return f'{cell.quotable:.2f}{spread} ({protocol}{runs})'


def _spread(value: compared.Spread) -> str:
  std = '' if value.std is None else f' ± {value.std:.2f}'
  return f'{value.mean:.2f}{std}'


def _interval(value: compared.Spread | None) -> str:
  if value is None:
    return ''
  if value.half is None:
    return 'one seed'
  low, high = value.mean - value.half, value.mean + value.half
  return f'{low:+.2f} to {high:+.2f}'


def _each(row: compared.Row, key: str) -> str:
  """Returns the values that the row's runs have for a key, each once."""
  values: Iterable[Any] = (held['result'][key] for held in row.held.values())
  if key == 'wall_s':
    values = (logging.duration(value) for value in values)
  return ', '.join(dict.fromkeys(map(str, values)))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  lines = [head, ['---'] * len(head), *rows]
  return ''.join(f'| {" | ".join(line)} |\n' for line in lines)
