"""Trains one run as far as its time goes; run.py starts it.

The run is stopped by SIGTERM before the deadline, and saves. OUT/results/train
then holds its metrics and log, result.json if it is finished, and its folder,
with the newest checkpoint, as chunks of a tar: what --resume goes on from. They
are also written in between, whenever there is a new checkpoint.
"""

from collections.abc import Mapping
import json
import os
import pathlib
import shutil
import sys
import time
from typing import Any

import child
import chunks

_SAVED = 75  # the exit code of a run that was stopped and saved
_KEEP_S = 5.0  # seconds that the last keeping may take
_COPIES = ('result.json', 'metrics.jsonl', 'log.txt')


class Keeper:
  """Brings what is worth keeping into the results."""

  def __init__(self, place: pathlib.Path, folder: pathlib.Path, most: int):
    """Keeps nothing yet.

    Args:
      place: Holds 'run' and 'cache', where teachers are trained.
      folder: Takes the copies and the chunks.
      most: The size of a chunk, in bytes, at most.
    """
    self._place, self._folder, self._most = place, folder, most
    self._kept: set[str] = set()
    self._count = 0
    self._last = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)

  def keep_every(self, seconds: float) -> None:
    """Calls `keep` when so long has passed since the last call of it."""
    if time.monotonic() - self._last > seconds:
      self.keep()

  def keep(self) -> bool:
    """Copies metrics and log; writes the chunks if a checkpoint is new.

    Returns:
      Whether that went well. Where the run has just deleted a file, or the disk
      is full, a line says so, and the next call tries again.
    """
    self._last = time.monotonic()
    try:
      self._keep()
    except OSError as error:
      print(f'not kept, until the next try: {error}', flush=True)
      return False
    return True

  def _keep(self) -> None:
    for name in _COPIES:
      if (path := self._place / 'run' / name).exists():
        part = self._folder / f'{name}.part'
        shutil.copyfile(path, part)
        os.replace(part, self._folder / name)
    found = members(self._place)
    if set(found) == self._kept:
      return
    stem = f'checkpoint{self._count + 1}'  # again after a failure: no litter
    chunks.write_tar(self._folder, stem, found, self._most)
    self._count += 1
    self._kept = set(found)


def members(place: pathlib.Path) -> dict[str, pathlib.Path]:
  """Returns what a run goes on from: files and folders by relative path.

  Of every run's folder that is its files, what is finished in it, and the
  newest whole checkpoint. TensorBoard's events are left out.
  """
  runs = [place / 'run', *(place / 'cache').glob('networks-*/*')]
  found = []
  for run in runs:
    if not (run / 'config.json').exists():
      continue
    for path in run.iterdir():
      temporary = path.suffix == '.part' or 'orbax' in path.name
      if path.name.startswith(('.', 'events')) or temporary:
        continue
      if path.name != 'checkpoints':
        found.append(path)
    steps = [p for p in (run / 'checkpoints').glob('*') if p.name.isdecimal()]
    if steps:
      found.append(max(steps, key=lambda path: int(path.name)))
  return {str(path.relative_to(place)): path for path in sorted(found)}


def data_name(data: str, place: pathlib.Path) -> str:
  """Returns a data set's name, the same on every machine.

  An .npz file is linked into the folder that the run is started in, since a
  run goes on only with the same name.
  """
  kind, _, path = data.partition(':')
  if kind != 'npz':
    return data
  file = pathlib.Path(path).resolve()
  (place / file.name).unlink(missing_ok=True)
  (place / file.name).symlink_to(file)
  return f'npz:{file.name}'


def arguments(options: Mapping[str, Any], place: pathlib.Path) -> list[str]:
  """Returns the run's command line, which is run in `place`."""
  file, colon, recipe = options['recipe'].partition(':')
  if pathlib.Path(file).is_file():  # else it is a name
    file = str(pathlib.Path(file).resolve())
  own = []
  if options['data']:
    own = [f'--config.data.name={data_name(options["data"], place)}']
  return [
    sys.executable,
    '-m',
    'kd_jax.main',
    f'--config={file}{colon}{recipe}',
    f'--workdir={place / "run"}',
    f'--config.seed={options["seed"]}',
    f'--config.cache_dir={place / "cache"}',
    # Every epoch took 17% of the time on an H200; a stopped run saves anyway.
    '--config.checkpoint_every=20.0',
    *own,
    *options['train_arg'],
  ]


def main(path: str) -> int:
  """Trains; `path` is of the options that run.py wrote."""
  began, asked = time.monotonic(), child.Stop()
  options = json.loads(pathlib.Path(path).read_text('utf-8'))
  work = pathlib.Path(options['work'])
  place = work / 'train'
  place.mkdir()
  if options['resume']:
    chunks.read_tar(pathlib.Path(options['resume']), place)
  keeper = Keeper(
    place,
    pathlib.Path(options['results']) / 'train',
    options['chunk_mb'] * chunks.MB,
  )
  seconds = options['seconds'] - options['stop_s']

  def stop() -> bool:
    keeper.keep_every(options['keep_s'])
    return asked() or time.monotonic() - began > seconds

  log = work / 'train_main.log'
  ended = child.run(
    arguments(options, place),
    seconds,
    log=log,
    folder=place,
    grace_s=options['stop_s'] - _KEEP_S,
    stop=stop,
  )
  kept = keeper.keep()
  lines = log.read_text('utf-8', errors='replace').strip().splitlines()
  print('\n'.join(lines[-10:]))
  if not kept:
    print('the last state is not in the results')
    return 1
  path = place / 'run' / 'result.json'
  if path.exists():  # a signal may have come as the process was ending
    result = json.loads(path.read_text('utf-8'))
    print(f'finished: {result["top1"]:.2f}% top-1, the last epoch')
    return 0
  if ended.stopped and ended.code != _SAVED:
    print(f'the run did not save when it was told to stop ({ended.code})')
    return 1
  return 0 if ended.code in (0, _SAVED) else 1


if __name__ == '__main__':
  sys.exit(main(sys.argv[1]))
