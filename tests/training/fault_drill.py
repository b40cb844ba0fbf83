"""Injects faults into runs and checks that their results do not change.

  python -m tests.training.fault_drill             # every row: half an hour
  python -m tests.training.fault_drill --quick     # the rows of the test suite
  python -m tests.training.fault_drill --kills=5 --config=ab   # at random

Each row starts a run of seconds (teacher and student, every step saved) through
launch/local_processes.sh, injects a fault at a moment of the run's trace, and
lets the launcher restart it. A row fails if the moment was not reached, if the
run did not end well, or if any final array differs from that of an undisturbed
run. The command prints a table: the fault and its moment, what noticed it and
after how many seconds, and the steps that were lost.
"""

import argparse
import collections
from collections.abc import Iterator
import contextlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any, NamedTuple

import numpy as np

from tests import children
from tests.cli import train_test
from tests.training.end_to_end_test import SMALL, leaves

ROOT = pathlib.Path(__file__).parent.parent.parent
LAUNCHER = ROOT / 'launch/local_processes.sh'
CPU_S = 1200.0  # CPU seconds that a run may use with its restarts


class Row(NamedTuple):
  """A fault and where it is injected.

  Attributes:
    processes: The number of processes of the run.
    moment: The moment, as tests/training/faulty.py names it.
    which: The occurrence of the moment, as a share of those in the undisturbed
      trace, from 0 to 1.
    action: A signal, 'hang', 'fail' (a write raises) or 'fill' (fills the
      disk).
    victims: The indices of the processes that it is injected into.
    then: A second (moment, action), which is injected at its next occurrence.
  """

  processes: int
  moment: str
  which: float
  action: str
  victims: tuple[int, ...] = (0,)
  then: tuple[str, str] | None = None

  def text(self) -> str:
    """Returns the first cells of the row in the table."""
    second = f', then {self.then[1]} at {self.then[0]}' if self.then else ''
    victims = ' and '.join(map(str, self.victims))
    return (
      f'{self.processes} | {self.action}{second} | {victims} | {self.moment} '
      f'({100 * self.which:.0f}%)'
    )


def rows() -> list[Row]:
  """Returns all rows of the drill."""
  kill = [
    ('teacher/dispatch', 0.5),
    ('teacher/array write', 0.5),
    ('teacher/final save', 0.0),
    ('run/start', 0.0),
    ('run/compile', 1.0),
    ('run/dispatch', 0.0),  # before the first checkpoint
    ('run/dispatch', 0.5),
    ('run/array write', 0.5),
    ('run/commit', 0.5),
    ('run/deletion', 0.5),
    ('run/evaluate', 0.5),
    ('run/commit', 1.0),
    ('run/final save', 0.5),
    ('run/write result.json', 0.0),
  ]
  term = [
    ('teacher/dispatch', 0.5),
    ('run/compile', 1.0),
    ('run/dispatch', 0.5),
    ('run/array write', 0.5),
    ('run/commit', 0.5),
    ('run/evaluate', 0.5),
  ]
  one_process = [
    ('teacher/dispatch', 0.5),
    ('run/compile', 1.0),
    ('run/dispatch', 0.5),
    ('run/array write', 0.5),
    ('run/evaluate', 0.5),
    ('run/final save', 0.5),
  ]
  return [
    *(Row(1, *place, 'SIGKILL') for place in kill),
    *(Row(1, *place, 'SIGTERM') for place in term),
    Row(1, 'run/dispatch', 0.5, 'SIGSTOP'),  # and SIGCONT 3 s later
    Row(1, 'run/dispatch', 0.4, 'hang'),
    Row(1, 'run/evaluate', 0.6, 'hang'),
    Row(1, 'run/array write', 0.5, 'fail'),
    Row(1, 'run/commit', 0.5, 'fail'),
    Row(1, 'run/array write', 1.0, 'fail'),  # of the last save
    Row(1, 'run/array write', 0.5, 'fail', then=('run/dispatch', 'SIGKILL')),
    Row(1, 'run/dispatch', 0.5, 'fill'),
    *(Row(2, *place, 'SIGKILL', (1,)) for place in one_process),
    Row(2, 'run/dispatch', 0.5, 'SIGKILL'),  # the coordinator
    Row(2, 'run/commit', 0.5, 'SIGKILL'),
    Row(2, 'run/deletion', 0.5, 'SIGKILL'),
    Row(2, 'run/dispatch', 0.6, 'SIGKILL', (0, 1)),
    Row(2, 'run/array write', 0.6, 'SIGKILL', (0, 1)),
    Row(2, 'run/dispatch', 0.5, 'SIGTERM', (1,)),
    Row(2, 'run/dispatch', 0.5, 'SIGTERM', (0, 1)),
    Row(2, 'run/dispatch', 0.5, 'SIGSTOP', (1,)),
    Row(2, 'run/dispatch', 0.5, 'hang', (1,)),
    Row(2, 'run/array write', 0.5, 'fail'),
  ]


# end_to_end_test and recovery_test cover the faults of a single process.
QUICK = [Row(2, 'run/commit', 0.5, 'SIGKILL')]


def kills(count: int, seed: str) -> list[Row]:
  """Returns rows that kill a process at random moments of its work."""
  chosen = random.Random(seed)
  moments = (
    'teacher/dispatch', 'run/start', 'run/dispatch', 'run/dispatch',
    'run/array write', 'run/commit', 'run/deletion', 'run/evaluate',
    'run/final save', 'run/write result.json',
  )  # fmt: skip
  return [
    Row(1, chosen.choice(moments), round(chosen.random(), 2), 'SIGKILL')
    for _ in range(count)
  ]


class Result(NamedTuple):
  """The result of a row.

  Attributes:
    wrong: Why the row failed; '' if it passed.
    noticed: The line of output that noticed the fault.
    seconds: The seconds from the fault to this line.
    lost: The steps that were repeated; None if no moment was reached.
  """

  wrong: str
  noticed: str
  seconds: float
  lost: int | None


class Drill:
  """Runs rows and compares their results with those of undisturbed runs."""

  def __init__(
    self,
    home: pathlib.Path,
    heartbeat_s: int = 10,
    watchdog_s: int = 30,
    *more: str,
  ):
    """Prepares the folder.

    Args:
      home: The folder of all runs, which must not exist.
      heartbeat_s: Seconds after which a silent process counts as dead.
      watchdog_s: Seconds without progress after which a process ends.
      *more: Options of the run that replace those of the drill.
    """
    self.home = home
    by_name = {text.partition('=')[0]: text for text in (*SMALL, *more)}
    self._arguments = (*by_name.values(),)
    self._bounds = (
      f'--config.heartbeat_timeout_seconds={heartbeat_s}',
      f'--config.watchdog_seconds={watchdog_s}',
    )
    self._wanted: dict[int, dict[str, Any]] = {}
    self._trace: dict[int, dict[tuple[str, int], int]] = {}
    shim = home / 'bin/python'
    shim.parent.mkdir(parents=True)
    shim.write_text(
      '#!/usr/bin/env bash\n'
      'if [ "${2:-}" = kd_jax.main ]; then '
      'shift 2; set -- -m tests.training.faulty '
      f'"$@"; fi\nexec {sys.executable} "$@"\n'
    )
    shim.chmod(0o755)

  def undisturbed(self, processes: int) -> None:
    """Runs without faults, once, and keeps the trace and the final arrays."""
    if processes in self._wanted:
      return
    folder = self.home / f'undisturbed-{processes}'
    folder.mkdir()
    # With one process nothing is cached, as rows interrupt compilations. With
    # several, this run caches the compiled programs for its rows.
    cached = processes > 1
    out, code = self._launch(folder, processes, [], cached=cached)[:2]
    if code:
      raise RuntimeError(f'the undisturbed run ended with {code}:\n{out}')
    self._wanted[processes] = ending(folder)
    counts: collections.Counter[tuple[str, int]] = collections.Counter()
    for i in range(processes):
      for line in (folder / f'trace-{i}').read_text().splitlines():
        counts[line.split(' ', 1)[1].rpartition(' ')[0], i] += 1
    self._trace[processes] = dict(counts)

  def run(self, number: int, row: Row) -> Result:
    """Runs one row."""
    self.undisturbed(row.processes)
    folder = self.home / f'row-{number}'
    folder.mkdir()
    with mounted(folder) if row.action == 'fill' else contextlib.nullcontext():
      return self._harmed(folder, row)

  def _harmed(self, folder: pathlib.Path, row: Row) -> Result:
    if not row.moment.startswith('teacher'):
      there = self.home / f'undisturbed-{row.processes}/cache'
      shutil.copytree(there, folder / 'cache')
    faults = []
    for victim in row.victims:
      total = self._trace[row.processes].get((row.moment, victim), 0)
      if not total:
        return Result(f'{row.moment} is in no trace', '', 0.0, None)
      count = max(1, round(row.which * total))
      fault = {'moment': row.moment, 'count': count, 'action': row.action}
      faults.append({**fault, 'process': victim})
      if row.then:
        moment, action = row.then
        again = self._trace[row.processes][moment, victim] * row.which + 3
        fault = {'moment': moment, 'count': round(again), 'action': action}
        faults.append({**fault, 'process': victim})
    cached = 'compile' not in row.moment
    out, code, told = self._launch(folder, row.processes, faults, cached=cached)
    if row.action == 'fill' and code == 1:
      (folder / 'ballast').unlink()
      more, code, _ = self._launch(folder, row.processes, faults, cached=cached)
      out += more
    hits = sorted(folder.glob('hit-*'))
    (folder / 'out').write_text(out)
    wrong = ''
    if len(hits) != len(faults):
      wrong = f'{len(hits)} of {len(faults)} moments were met'
    elif code:
      wrong = f'ended with {code}: {out[-2000:]}'
    else:
      wrong = difference(self._wanted[row.processes], ending(folder))
    began = float(hits[0].read_text().split()[0]) if hits else 0.0
    seconds, noticed = next(
      ((at - began, text) for at, text in told if at >= began), (0.0, 'nobody')
    )
    done = self._trace[row.processes]['run/dispatch', 0]
    lost = dispatches(folder) - done if hits else None
    return Result(wrong, noticed, seconds, lost)

  def _launch(
    self, folder: pathlib.Path, processes: int, faults: Any, *, cached: bool
  ) -> tuple[str, int, list[tuple[float, str]]]:
    """Returns the output, the exit code, and the notices with their times."""
    compiled = self.home / f'compiled-{processes}'
    command = [
      'bash',
      LAUNCHER,
      str(processes),
      *self._arguments,
      *self._bounds,
    ]
    process = children.Child(
      [*command, f'--workdir={folder / "run"}'],
      cwd=ROOT,
      env=train_test.environment(
        PATH=f'{self.home / "bin"}{os.pathsep}{os.environ["PATH"]}',
        JAX_NUM_CPU_DEVICES='1',
        JAX_COMPILATION_CACHE_DIR=str(compiled),
        JAX_ENABLE_COMPILATION_CACHE=str(cached).lower(),
        KD_JAX_CACHE=str(folder / 'cache'),
        FAULT_FOLDER=str(folder),
        FAULTS=json.dumps(faults),
        GRACE='40',
        MAX_RESTARTS='3',
      ),
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      cpu_s=CPU_S,
    )
    watcher = None
    if faults and faults[0]['action'] == 'SIGSTOP' and processes == 1:
      watcher = threading.Thread(target=wake, args=(folder, process))
      watcher.start()
    told, lines = [], []
    with process:
      assert process.stdout is not None
      for line in process.stdout:
        lines.append(line)
        if re.search(r'local_processes: |trying again|kd_jax: ', line):
          told.append((time.time(), line.strip()))
      code = process.wait()
    if watcher:
      watcher.join()
    return ''.join(lines), code, told


def wake(folder: pathlib.Path, launcher: children.Child) -> None:
  """Lets a stopped process continue after three seconds."""
  while launcher.poll() is None:
    if hits := list(folder.glob('hit-*')):
      time.sleep(3)
      os.kill(int(hits[0].read_text().split()[1]), signal.SIGCONT)
      return
    time.sleep(0.1)


@contextlib.contextmanager
def mounted(folder: pathlib.Path) -> Iterator[None]:
  """Mounts a file system of 8 MB on the folder; needs the right to mount."""
  size = ['-o', 'size=8m']
  command = ['mount', '-t', 'tmpfs', *size, 'tmpfs', str(folder)]
  children.run(command, check=True)
  try:
    yield
  finally:
    children.run(['umount', str(folder)], check=True)


def ending(folder: pathlib.Path) -> dict[str, Any]:
  """Returns every array that a run ends with, and its accuracy."""
  facts: dict[str, Any] = {}
  deployed = 'student' if (folder / 'run/student').exists() else 'deployed'
  for name in ('checkpoints', deployed, 'teacher'):
    step, arrays = leaves(folder / 'run' / name)
    facts |= {f'{name}/{key}': value for key, value in arrays.items()}
    facts[f'{name}/step'] = step
  result = json.loads((folder / 'run/result.json').read_text())
  return {**facts, 'top1': result['top1'], 'best': result['best_on_test']}


def difference(want: dict[str, Any], got: dict[str, Any]) -> str:
  """Returns how two endings differ; '' if they are equal bit for bit."""
  if want.keys() != got.keys():
    return f'other arrays: {want.keys() ^ got.keys()}'
  wrong = [n for n in want if not np.array_equal(want[n], got[n])]
  return f'{len(wrong)} of {len(want)} differ: {wrong[:3]}' if wrong else ''


def dispatches(folder: pathlib.Path) -> int:
  """Returns how many steps the run itself did, with those done again."""
  trace = [
    line.rpartition(' ')[0]
    for line in (folder / 'trace-0').read_text().splitlines()
  ]
  return sum(line.endswith(' run/dispatch') for line in trace)


def main() -> int:
  """Prints the table and returns the number of failed rows."""
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--quick', action='store_true', help='a few rows')
  parser.add_argument('--kills', type=int, help='this many random kills')
  parser.add_argument('--only', help='rows whose text has this in it')
  parser.add_argument('--keep', help='a new folder that stays there')
  args, more = parser.parse_known_args()
  home = pathlib.Path(args.keep or tempfile.mkdtemp(prefix='fault_drill_'))
  watchdog_s = 1800 if args.kills else 30  # a kill needs none
  drill, failed = Drill(home / 'runs', 10, watchdog_s, *more), 0
  planned = QUICK if args.quick else rows()
  if args.kills:
    planned = kills(args.kills, ' '.join(more))
  print('| n | harm | to | at | noticed | s | steps again | identical |')
  print('|---|---|---|---|---|---:|---:|---|')
  for number, row in enumerate(planned):
    if args.only and args.only not in row.text():
      continue
    result = drill.run(number, row)
    failed += bool(result.wrong)
    noticed = result.noticed.removeprefix('local_processes: ')
    lost = '–' if result.lost is None else result.lost
    print(
      f'| {row.text()} | {noticed[:60]} | {result.seconds:.1f} | {lost} | '
      f'{"NO: " + result.wrong if result.wrong else "yes"} |',
      flush=True,
    )
  if not args.keep:
    shutil.rmtree(home)
  return failed


if __name__ == '__main__':
  sys.exit(main())
