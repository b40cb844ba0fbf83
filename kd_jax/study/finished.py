"""Finds finished runs, and reads what they were trained under."""

from collections.abc import Iterator, Mapping, Sequence
import os
import re
from typing import Any, NamedTuple

from etils import epath

from kd_jax import config as config_lib
from kd_jax import errors, tasks
from kd_jax.config import roles
from kd_jax.runtime import run_dir, stored
from kd_jax.training import facts

# The seeds, or of very many their number and digest.
_SEEDS_FILE = re.compile(r'seeds-(\d+(-\d+)*|\d+-[0-9a-f]{16})\.json')
# By these keys a config.json is that of a run.
_KEYS = {
  'method', 'seed', 'epochs', 'data', 'student', 'teacher', 'optimizer',
}  # fmt: skip
# What is read of a configuration to compare runs.
_NEEDED = (
  'method', 'seed', 'epochs', 'batch_size', 'data.name', 'data.train_size',
  'data.val_fraction', 'data.image_size', 'student.name', 'student.args',
  'teacher.name', 'teacher.args', 'teacher.path', 'teacher.recipe',
  'optimizer.rules',
)  # fmt: skip
# What a file that --seeds writes has, and runs are compared by.
_SEEDS_FIELDS = {
  'seeds': stored.NUMBERS,
  'top1': stored.NUMBERS,
  'config': stored.OBJECT,
  'versions': stored.OBJECT,
}
_GIVE = (
  "give runs' folders, a folder that holds such, or files that --seeds writes "
  '(seeds-0-1-2.json)'
)


class Run(NamedTuple):
  """A finished run.

  Attributes:
    place: Its folder, or the file that has its figures.
    config: What determines its result, but for the seed.
    data_facts: What identifies the data; None if it is not known.
    seed: Its seed.
    top1: The headline of its task (%) on test after the last epoch, such as
      top-1.
    alone: That of the student alone with this seed; None if it is not known.
    teacher: That of the teacher; None if there is none, or several, or it is
      not known.
    made: Hardware, versions and commit, as far as they are known.
    is_copy: Whether this is read from a file, and a folder may have it too.
    metric: The headline's name for a person.
    student: The name of the deployed student; '' if it is not known.
  """

  place: str
  config: dict[str, Any]
  data_facts: Any
  seed: int
  top1: float
  alone: float | None
  teacher: float | None
  made: dict[str, Any]
  is_copy: bool
  metric: str = 'top-1'
  student: str = ''


class Found(NamedTuple):
  """What was found.

  Attributes:
    runs: The finished runs, in the order in which they are given.
    left_out: A line for each run or file that is left out, with the reason.
  """

  runs: list[Run]
  left_out: list[str]


class UnusableError(Exception):
  """The reason why a run is left out."""


def find(paths: Sequence[str]) -> Found:
  """Returns the finished runs in folders and files.

  Args:
    paths: Folders of runs, folders somewhere in which there are such, and files
      that `--seeds` writes.

  Raises:
    UsageError: A path does not exist, or holds no run, or there is no finished
      run at all.
  """
  found = Found([], [])
  taken: set[str] = set()
  for path in paths:
    place = run_dir.Folder(epath.Path(path).expanduser()).path
    if not place.exists():
      raise errors.UsageError(f'there is no {path}: {_GIVE}')
    if place.is_file():
      found.runs.extend(of_file(place))
      continue
    entries = list(_below(place, set()))
    if not entries:
      raise errors.UsageError(f'{path} holds no run: {_GIVE}')
    for entry in entries:
      if (real := os.path.realpath(entry)) in taken:
        continue  # it is below another path too
      taken.add(real)
      try:
        found.runs.extend(
          of_file(entry) if entry.is_file() else [of_folder(entry)]
        )
      except UnusableError as error:
        found.left_out.append(f'{_short(entry)}: {error}')
      except errors.UsageError as error:
        found.left_out.append(str(error))
  if not found.runs:
    why = f': {"; ".join(found.left_out)}' if found.left_out else ''
    raise errors.UsageError(
      f'{", ".join(paths)} holds no finished run{why}; the command that trains '
      'a run goes on with it'
    )
  return found


def _below(place: epath.Path, searched: set[str]) -> Iterator[epath.Path]:
  """Yields the folders of runs and the files of seeds in a folder.

  Args:
    place: The folder; it may be a run's.
    searched: The folders that were searched, for links may lead in circles.
  """
  real = os.path.realpath(place)
  if real in searched:
    return
  searched.add(real)
  if _is_run(place):
    yield place
    return
  for entry in sorted(place.iterdir(), key=lambda entry: _natural(entry.name)):
    if entry.name.startswith('.'):
      continue
    if entry.is_dir():
      yield from _below(entry, searched)
    elif _SEEDS_FILE.fullmatch(entry.name):
      yield entry


def _natural(name: str) -> list[tuple[int, str]]:
  """Returns a key that sorts 'seed9' before 'seed10'."""
  parts = re.findall(r'\d+|\D+', name)
  return [(int(p), '') if p.isdecimal() else (0, p) for p in parts]


def _short(place: epath.Path) -> str:
  """Returns a path as it is read best: from here if it is below."""
  return str(place).removeprefix(f'{os.getcwd()}{os.sep}')


def _is_run(place: epath.Path) -> bool:
  """Returns whether a folder is a run's; its config.json may be damaged."""
  path = place / 'config.json'
  if not path.exists():
    return False
  try:
    return stored.read(path, {}).keys() >= _KEYS
  except (OSError, errors.UsageError):
    return True


def of_folder(place: epath.Path) -> Run:
  """Returns the finished run of a run's folder.

  Args:
    place: The folder, with config.json.

  Raises:
    UnusableError: The run is not finished, or one of its files is damaged.
  """
  try:
    names = ('config.json', 'result.json', run_dir.ALONE)
    config, result, alone = (stored.read_if_there(place / x) for x in names)
    total = _epochs(config)
    if result is None or result.get('epochs', total) < total:
      records = run_dir.Records(run_dir.Folder(place)).read()
      done = f'{records[-1]["epoch"]:.4g}' if records else '0'
      raise UnusableError(f'unfinished, at epoch {done} of {total}')
    teachers = facts.teachers(result)
    teacher = next(iter(teachers.values())) if len(teachers) == 1 else {}
    metric = tasks.headline(result)
    if alone and alone.get('epochs') != config['epochs']:
      alone = None  # it is of an earlier run with fewer epochs
    return Run(
      place=_short(place),
      config=_determining(config),
      data_facts=config.get('data_facts'),
      seed=config['seed'],
      top1=result[metric.name],
      alone=alone[metric.name] if alone else None,
      teacher=teacher.get(metric.name),
      metric=metric.text,
      made=_made(result),
      is_copy=False,
      student=roles.deployed(config, result.get('kept', ())),
    )
  except errors.UsageError as error:
    why = str(error).removeprefix(f'{place}{os.sep}')
    raise UnusableError(why) from error
  except (OSError, KeyError, TypeError) as error:
    raise UnusableError(f'damaged: {type(error).__name__}: {error}') from error


def _epochs(config: Mapping[str, Any]) -> int:
  """Returns the epochs of a whole run."""
  phases = config.get('phases') or {}
  return config['epochs'] + sum(phase['epochs'] for phase in phases.values())


def of_file(path: epath.Path) -> list[Run]:
  """Returns the runs of a file that `--seeds` wrote.

  Args:
    path: The file's path.

  Raises:
    UsageError: The file cannot be read, or has another content.
  """
  try:
    figures = stored.read(path, _SEEDS_FIELDS)
    seeds, metric = figures['seeds'], tasks.headline(figures)
    lists = {
      name: figures.get(name) or [None] * len(seeds)
      for name in (f'alone_{metric.name}', f'teacher_{metric.name}')
    }
    columns = (seeds, figures[metric.name], *lists.values())
    config = _determining(figures['config'])
    return [
      Run(
        place=_short(path),
        config=config,
        data_facts=None,
        seed=seed,
        top1=top1,
        alone=alone,
        teacher=teacher,
        made=_made(figures),
        is_copy=True,
        metric=metric.text,
      )
      for seed, top1, alone, teacher in zip(*columns, strict=True)
    ]
  except errors.UsageError:
    raise
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise errors.UsageError(
      f'{_short(path)} is not what kd_jax.main --seeds writes '
      f'(seeds-0-1-2.json): {type(error).__name__}: {error}'
    ) from error


def _determining(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns what determines a result, without the seed and the data's facts.

  Raises:
    KeyError: It lacks a key that comparing needs.
  """
  kept = config_lib.determining(config)
  for path in _NEEDED:
    value: Any = kept
    for key in path.split('.'):
      if key not in value:
        raise KeyError(f'config.{path}')
      value = value[key]
  for key in ('seed', 'data_facts'):
    kept.pop(key, None)
  return kept


def _made(result: Mapping[str, Any]) -> dict[str, Any]:
  """Returns what is known of hardware, versions and commit."""
  versions = result.get('versions', {})
  made = {name: result.get(name) for name in ('hardware', 'commit')}
  made |= {name: versions.get(name) for name in ('jax', 'kd_jax')}
  return {name: value for name, value in made.items() if value}
