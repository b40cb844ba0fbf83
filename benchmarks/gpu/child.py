"""Runs commands with a deadline, and ends all processes that they started."""

from collections.abc import Callable, Mapping, Sequence
import os
import pathlib
import signal
import subprocess
import time
from typing import NamedTuple
import uuid

_POLL_S = 0.02  # seconds between two polls of a command


class Ended(NamedTuple):
  """The end of a command.

  Attributes:
    code: The exit code; negative if a signal ended it.
    seconds: How long it ran.
    stopped: Whether it was told to stop, by its deadline or by `stop`.
  """

  code: int
  seconds: float
  stopped: bool


class Stop:
  """Records whether SIGTERM or SIGINT told this process to stop."""

  def __init__(self) -> None:
    """Installs the signal handlers; only the main thread may."""
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
  overtime_s: float | None = None,
  stop: Callable[[], bool] = lambda: False,
) -> Ended:
  """Runs a command until it ends, its time is up, or `stop` says so.

  The command gets SIGTERM first. After `grace_s` seconds, SIGKILL ends the
  command and all processes that it started, as far as they still run.

  Args:
    command: The program and its arguments.
    seconds: The time limit.
    log: The file to which its output is appended.
    environment: Variables to add to this process's environment.
    folder: The working directory; None is that of this process.
    grace_s: Seconds from SIGTERM to SIGKILL.
    overtime_s: The same where its time is up; None is `grace_s`.
    stop: Returns whether to stop the command; called 50 times a second.

  Returns:
    How it ended.
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
  stopped, grace = False, 0.0
  try:
    while process.poll() is None and not stopped:
      time.sleep(_POLL_S)
      if stop():
        stopped, grace = True, grace_s
      elif time.monotonic() - began > seconds:
        stopped, grace = True, grace_s if overtime_s is None else overtime_s
  finally:
    _end(process, mark, grace)
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
      continue  # the process has ended by itself


def marked(mark: str) -> list[int]:
  """Returns the ids of the processes that have a variable in their environment.

  A process passes it on to those that it starts, also to those that leave its
  session or outlive it.

  Args:
    mark: The name of the variable, whose value is 1.
  """
  numbers = []
  for path in pathlib.Path('/proc').glob('[0-9]*/environ'):
    try:
      variables = path.read_bytes().split(b'\0')
    except OSError:
      continue  # the process has just ended, or belongs to another user
    if f'{mark}=1'.encode() in variables:
      numbers.append(int(path.parent.name))
  return numbers
