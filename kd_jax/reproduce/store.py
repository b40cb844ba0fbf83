"""The results that a repository keeps: results/<cell>/seed-<n>.json.

A file holds a finished run: its result with hardware, versions and commit, the
configuration that determines it, and its metrics, an epoch a line. A folder
`unfinished-seed-<n>` beside it holds the files of a run that can go on.
"""

from collections.abc import Mapping, Sequence
import itertools
import json
import math
import os
import pathlib
import re
from typing import Any, NamedTuple

from etils import epath

from kd_jax import errors, tasks
from kd_jax.reproduce.cells import Cell
from kd_jax.runtime import stored
from kd_jax.training import facts

_DIGITS = 6  # significant digits of a metric
# Means over the steps since the last record; other metrics are of its step.
_MEANS = ('train/',)
_LEFT_OUT = (
  'time/', 'train/weighted/', 'step/', 'images_per_s', 'learning_rate',
)  # fmt: skip
_OF_AN_EPOCH = ('train/', 'val/', 'test/')  # records without them are points


class Stand(NamedTuple):
  """How far a cell is.

  Attributes:
    done: The results by seed.
    unfinished: By seed, the epochs that an unfinished run has done.
  """

  done: dict[int, dict[str, Any]]
  unfinished: dict[int, float]


def path_of(results: pathlib.Path, cell: Cell, seed: int) -> pathlib.Path:
  """Returns the file of a cell's seed."""
  return results / cell.name / f'seed-{seed}.json'


def stand(
  results: pathlib.Path, cell: Cell, work: pathlib.Path | None = None
) -> Stand:
  """Returns how far a cell is.

  Args:
    results: The folder of results.
    cell: The cell.
    work: The folder of the runs under way; None looks at `results` alone.

  Raises:
    UsageError: A file of results is damaged.
  """
  done, unfinished = {}, {}
  for path in (results / cell.name).glob('seed-*.json'):
    if match := re.fullmatch(r'seed-(\d+)\.json', path.name):
      done[int(match[1])] = _read(path)
  places = [(results / cell.name, 'unfinished-seed-')]
  if work is not None:
    places.append((work / cell.name, 'seed-'))
  for folder, prefix in places:
    for path in folder.glob(f'{prefix}*'):
      text = path.name.removeprefix(prefix)
      if path.is_dir() and text.isdecimal() and int(text) not in done:
        unfinished[int(text)] = epochs_done(path)
  return Stand(dict(sorted(done.items())), dict(sorted(unfinished.items())))


def unfinished_metrics(
  results: pathlib.Path, cell: Cell
) -> dict[int, list[dict[str, Any]]]:
  """Returns the metrics of the unfinished runs in `results`, by seed."""
  return {
    seed: _records(results / cell.name / f'unfinished-seed-{seed}')
    for seed in stand(results, cell).unfinished
  }


def epochs_done(run: pathlib.Path) -> float:
  """Returns the epochs in the metrics.jsonl of a run's folder."""
  records = _records(run)
  return records[-1]['epoch'] if records else 0.0


def kept(
  cell: Cell, run: pathlib.Path, config: Mapping[str, Any] | None
) -> dict[str, Any]:
  """Returns what a finished run's file holds.

  Nothing in it depends on where the run was or how often it was interrupted,
  but for times.

  Args:
    cell: The cell.
    run: The run's folder, with result.json and metrics.jsonl.
    config: What determines the run; None if it is not known.

  Raises:
    UsageError: The folder holds no finished run.
  """
  try:
    result = stored.read(epath.Path(run) / 'result.json')
  except OSError as error:
    raise errors.UsageError(
      f'{run} holds no finished run: {error.strerror}: result.json'
    ) from error
  result['data'] = _without_folder(result['data'])
  for teacher in facts.teachers(result).values():
    if teacher.get('from'):
      teacher['from'] = pathlib.PurePath(teacher['from']).name
  return {
    'cell': cell.recipe,
    'seed': result['seed'],
    'notes': [],
    'result': result,
    'config': config and _portable(config),
    'metrics': thinned(_records(run), result['steps'] / result['epochs']),
  }


def write(results: pathlib.Path, cell: Cell, kept: Mapping[str, Any]) -> None:
  """Writes the file of a finished run in one step.

  Raises:
    UsageError: The folder cannot be written.
  """
  path = path_of(results, cell, kept['seed'])
  part = path.with_name(f'{path.name}.part')
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    part.write_text(text_of(kept), encoding='utf-8')
    os.replace(part, path)
  except OSError as error:
    raise errors.UsageError(
      f'cannot write {path}: {error.strerror}; give a writable --out'
    ) from error


def text_of(kept: Mapping[str, Any]) -> str:
  """Returns the JSON text of a file: the metrics have an epoch a line."""
  head = {k: v for k, v in kept.items() if k not in ('metrics', 'config')}
  lines = ',\n'.join(f'    {json.dumps(row)}' for row in kept['metrics'])
  return (
    f'{json.dumps(head, indent=2)[:-2]},\n'
    f'  "config": {json.dumps(kept["config"])},\n'
    f'  "metrics": [\n{lines}\n  ]\n}}\n'
  )


def thinned(
  records: Sequence[Mapping[str, Any]], steps_per_epoch: float
) -> list[dict[str, Any]]:
  """Returns one record an epoch.

  Losses are means over the epoch's steps, so that a run that was stopped
  within an epoch has the same; all else is of the epoch's last record.

  Args:
    records: The records of metrics.jsonl.
    steps_per_epoch: The steps of an epoch.
  """
  epochs: dict[int, list[Mapping[str, Any]]] = {}
  for record in records:
    if not any(key.startswith(_OF_AN_EPOCH) for key in record):
      continue
    number = math.ceil(round(record['step'] / steps_per_epoch, 6))
    epochs.setdefault(number, []).append(record)
  rows, before = [], 0
  for group in epochs.values():
    merged: dict[str, Any] = {}
    for record in group:
      merged |= record
    ends = [before, *(record['step'] for record in group)]
    steps = [end - start for start, end in itertools.pairwise(ends)]
    for key in merged:
      if key.startswith(_MEANS) and all(key in record for record in group):
        total = math.fsum(r[key] * n for r, n in zip(group, steps, strict=True))
        merged[key] = total / sum(steps)
    before = group[-1]['step']
    rows.append(
      {
        key: _rounded(value)
        for key, value in merged.items()
        if not key.startswith(_LEFT_OUT)
      }
    )
  return rows


def _rounded(value: Any) -> Any:
  return float(f'{value:.{_DIGITS}g}') if isinstance(value, float) else value


def _portable(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a configuration without the folder of its data."""
  data = {**config['data'], 'name': _without_folder(config['data']['name'])}
  return {**config, 'data': data}


def _without_folder(data: str) -> str:
  kind, colon, path = data.partition(':')
  if not colon or kind not in ('npz', 'folder', 'voc', 'voc_boxes'):
    return data
  return f'{kind}:{pathlib.PurePath(path).name}'


def _records(run: pathlib.Path) -> list[dict[str, Any]]:
  path = epath.Path(run) / 'metrics.jsonl'
  if not path.exists():
    return []
  text = stored.content(path).decode(errors='replace')
  return list(stored.records(text, str(path)))


def _read(path: pathlib.Path) -> dict[str, Any]:
  try:
    held = stored.read(epath.Path(path))
    result, _, _ = held['result'], held['metrics'], held['notes']
    _ = result[tasks.headline(result).name]
    if config := held.get('config'):
      _ = config['data']['name']
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise errors.UsageError(
      f'{path} is damaged ({type(error).__name__}: {error}): delete it, and '
      '`kd-jax reproduce run` writes it again'
    ) from error
  return held
