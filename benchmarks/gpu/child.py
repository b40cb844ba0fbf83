"""Commands with a deadline, ended with every process that they started."""

from collections.abc import Callable, Mapping, Sequence
import os
import pathlib
import signal
import subprocess
import time
from typing import NamedTuple
import uuid

_POLL_S = 0.02  # seconds between two looks at a command


class Ended(NamedTuple):
  """How a command ended.

  Attributes:
    code: The exit code; negative where a signal ended it.
    seconds: How long it ran.
    stopped: Whether it was told to stop, by its deadline or by `stop`.
  """

  code: int
  seconds: float
  stopped: bool


class Stop:
  """Whether this process was told to stop, by SIGTERM or SIGINT."""

  def __init__(self) -> None:
    """Begins to listen; only the main thread may."""
    self._asked = False
    for number in (signal.SIGTERM, signal.SIGINT):
      signal.signal(number, self._hear)

  def _hear(self, number: int, frame: object) -> None:
    del number, frame
    self._asked = True

  def __call__(self) -> bool:
    """Returns whether a signal has come."""
    return self._asked


def run(
  command: Sequence[str],
  seconds: float,
  *,
  log: pathlib.Path,
  environment: Mapping[str, str] | None = None,
  folder: pathlib.Path | None = None,
  grace_s: float = 10.0,
  stop: Callable[[], bool] = lambda: False,
) -> Ended:
  """Runs a command until it ends, its time is up, or it shall stop.

  The command gets SIGTERM first. What is left of it after `grace_s` seconds,
  and of the processes that it started, gets SIGKILL.

  Args:
    command: The program and its arguments.
    seconds: The time that it has.
    log: Takes its output, after what the file holds already.
    environment: What its environment has beside ours.
    folder: What it runs in; None is ours.
    grace_s: Seconds from SIGTERM to SIGKILL.
    stop: Asked 50 times a second; whether to stop the command.
  """
  began = time.monotonic()
  mark = f'KD_JAX_CHILD_{uuid.uuid4().hex}'
  with log.open('ab') as file:
    process = subprocess.Popen(
      command,
      stdin=subprocess.DEVNULL,
      stdout=file,
      stderr=subprocess.STDOUT,
      cwd=folder,
      env={**os.environ, **(environment or {}), mark: '1'},
      start_new_session=True,
    )
  stopped = False
  try:
    while process.poll() is None and not stopped:
      time.sleep(_POLL_S)
      stopped = stop() or time.monotonic() - began > seconds
  finally:
    _end(process, mark, grace_s if stopped else 0.0)
  return Ended(process.returncode, time.monotonic() - began, stopped)


def _end(process: subprocess.Popen[bytes], mark: str, grace_s: float) -> None:
  """Ends a process and all that have its mark; see `run`."""
  if process.poll() is None:
    process.terminate()
    try:
      process.wait(grace_s)
    except subprocess.TimeoutExpired:
      process.kill()
      process.wait()
  for number in marked(mark):
    try:
      os.kill(number, signal.SIGKILL)
    except ProcessLookupError:
      continue  # it has ended by itself


def marked(mark: str) -> list[int]:
  """Returns the ids of the processes that have a variable in their environment.

  What a process starts inherits it, also what leaves its session or outlives
  it.
  """
  found = []
  for path in pathlib.Path('/proc').glob('[0-9]*/environ'):
    try:
      variables = path.read_bytes().split(b'\0')
    except OSError:
      continue  # it has just ended, or it is another user's
    if f'{mark}=1'.encode() in variables:
      found.append(int(path.parent.name))
  return found
