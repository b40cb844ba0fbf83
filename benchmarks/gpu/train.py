"""Trains one run as far as its time goes; run.py starts it.

SIGTERM stops the run before the deadline, and it saves. OUT/results/train then
holds its metrics and log, result.json if it is finished, and its folder with
the newest checkpoint as chunks of a tar, from which --resume goes on. They are
also written during training, whenever there is a new checkpoint.
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
_KEEP_S = 5.0  # seconds that the last `Keeper.keep` may take
_COPIES = ('result.json', 'metrics.jsonl', 'log.txt')


class Keeper:
  """Copies what a later run needs into the results."""

  def __init__(self, place: pathlib.Path, folder: pathlib.Path, most: int):
    """Creates the folder, and keeps nothing yet.

    Args:
      place: The folder with 'run' and with 'cache', where teachers are trained.
      folder: The folder for the copies and the chunks.
      most: The maximum size of a chunk, in bytes.
    """
    self._place, self._folder, self._most = place, folder, most
    self._kept: set[str] = set()
    self._count = 0
    self._last = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)

  def keep_every(self, seconds: float) -> None:
    """Calls `keep` if its last call is more than `seconds` ago."""
    if time.monotonic() - self._last > seconds:
      self.keep()

  def keep(self) -> bool:
    """Copies metrics and log, and writes the chunks of a new checkpoint.

    Returns:
      Whether this succeeded. If the run has just deleted a file, or the disk is
      full, it prints the error, and the next call tries again.
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
    files = members(self._place)
    if set(files) == self._kept:
      return
    # A retry after a failure overwrites the chunks of the failed call.
    stem = f'checkpoint{self._count + 1}'
    chunks.write_tar(self._folder, stem, files, self._most)
    self._count += 1
    self._kept = set(files)


def members(place: pathlib.Path) -> dict[str, pathlib.Path]:
  """Returns the files and folders that a run resumes from, by relative path.

  They are, for each run's folder, its files, its finished subfolders, and the
  newest complete checkpoint, without TensorBoard's events.

  Args:
    place: The folder with 'run' and 'cache'.
  """
  runs = [place / 'run', *(place / 'cache').glob('networks-*/*')]
  paths = []
  for run in runs:
    if not (run / 'config.json').exists():
      continue
    for path in run.iterdir():
      temporary = path.suffix == '.part' or 'orbax' in path.name
      if path.name.startswith(('.', 'events')) or temporary:
        continue
      if path.name != 'checkpoints':
        paths.append(path)
    steps = [p for p in (run / 'checkpoints').glob('*') if p.name.isdecimal()]
    if steps:
      paths.append(max(steps, key=lambda path: int(path.name)))
  return {str(path.relative_to(place)): path for path in sorted(paths)}


def data_name(data: str, place: pathlib.Path) -> str:
  """Returns the name of a data set, which is the same on every machine.

  An .npz file is linked into the folder in which the run starts, as a run
  resumes only with the same name.

  Args:
    data: The value of --data.
    place: The folder in which the run starts.
  """
  kind, _, path = data.partition(':')
  if kind != 'npz':
    return data
  file = pathlib.Path(path).resolve()
  (place / file.name).unlink(missing_ok=True)
  (place / file.name).symlink_to(file)
  return f'npz:{file.name}'


def arguments(options: Mapping[str, Any], place: pathlib.Path) -> list[str]:
  """Returns the command line of the run.

  Args:
    options: The options of run.py.
    place: The folder in which the run starts.
  """
  file, colon, recipe = options['recipe'].partition(':')
  if pathlib.Path(file).is_file():  # else it is a name
    file = str(pathlib.Path(file).resolve())
  data_arguments = []
  if options['data']:
    data_arguments = [f'--config.data.name={data_name(options["data"], place)}']
  return [
    sys.executable,
    '-m',
    'kd_jax.main',
    f'--config={file}{colon}{recipe}',
    f'--workdir={place / "run"}',
    f'--config.seed={options["seed"]}',
    f'--config.cache_dir={place / "cache"}',
    # Checkpoints of every epoch took 17% of the time on an H200. A run that is
    # stopped saves in any case.
    '--config.checkpoint_every=1.0',
    f'--config.checkpoint_seconds={options["keep_s"]}',
    *data_arguments,
    *options['train_arg'],
  ]


def main(path: str) -> int:
  """Trains the run.

  Args:
    path: The file of options that run.py wrote.

  Returns:
    The exit code: 0 if the run is finished or saved and its state is kept, else
    1.
  """
  asked = child.Stop()
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
  last = options['until'] - options['stop_s']

  def stop() -> bool:
    keeper.keep_every(options['keep_s'])
    return asked() or time.monotonic() > last

  log = work / 'train_main.log'
  ended = child.run(
    arguments(options, place),
    last - time.monotonic(),
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
