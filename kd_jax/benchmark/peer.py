"""Processes that take turns, so that all of them meet the same load.

Other frameworks are measured in such processes. They are never imported here.
"""

from collections.abc import Mapping, Sequence
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
from typing import Any

from kd_jax import errors


def _leave(number: int, frame: Any) -> None:
  """Exits by an exception on a signal, so that every peer is closed.

  Otherwise a stopped peer would outlive this process, stopped for ever.
  """
  del frame
  sys.exit(128 + number)


# The peers whose threads wait until they are ready.
_starting: 'set[Peer]' = set()


def end_starting() -> None:
  """Kills the peers that are not ready, so that they disturb no turn."""
  for each in list(_starting):
    each.kill()


class Peer:
  """A process that answers each line with a line of JSON.

  The process and its children are stopped (SIGSTOP) while it is not their turn,
  so that they prepare nothing during the turns of others.

  Attributes:
    label: The name of the peer in messages and tables.
    about: What the process reports when it is ready; 'left_out' gives the
      reason if it cannot run here.
  """

  def __init__(
    self,
    label: str,
    command: Sequence[str],
    environment: Mapping[str, str] | None = None,
  ):
    """Starts the process, and waits until it is ready.

    Args:
      label: The name of the peer.
      command: The command that starts the process.
      environment: Variables that are added to the environment.

    Raises:
      UsageError: The process ended instead.
    """
    self.label = label
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
      signal.signal(signal.SIGTERM, _leave)
    self._process = subprocess.Popen(
      command,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      env={**os.environ, **(environment or {})},
      start_new_session=True,
    )
    _starting.add(self)
    try:
      self.about = self._answer()
    except BaseException:
      self.close()
      raise
    finally:
      _starting.discard(self)
    self._signal(signal.SIGSTOP)

  def ask(self, line: object) -> dict[str, Any]:
    """Sends a line, and returns the answer; then the process is stopped again.

    Raises:
      UsageError: The process ended instead.
    """
    self._signal(signal.SIGCONT)
    assert self._process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # `_answer` raises
      self._process.stdin.write(f'{line}\n')
      self._process.stdin.flush()
    answer = self._answer()
    self._signal(signal.SIGSTOP)
    return answer

  def cpu_s(self) -> float:
    """Returns the CPU seconds of the process and its children so far.

    It is 0 where there is no /proc.
    """
    ticks = 0
    for path in pathlib.Path('/proc').glob('[0-9]*/stat'):
      try:
        fields = path.read_text().rpartition(')')[2].split()
      except OSError:
        continue  # the process has just ended
      if int(fields[3]) == self._process.pid:  # it is of the peer's session
        ticks += int(fields[11]) + int(fields[12])  # user and system time
    return ticks / os.sysconf('SC_CLK_TCK')

  def kill(self) -> None:
    """Kills the process and its children, from any thread.

    A thread that waits for its answer then gets UsageError.
    """
    self._signal(signal.SIGKILL)

  def close(self) -> None:
    """Kills the process and its children, and waits for its end."""
    self.kill()
    self._process.communicate()

  def _signal(self, number: signal.Signals) -> None:
    if self._process.poll() is None:  # otherwise its id may be another's
      os.killpg(self._process.pid, number)

  def _answer(self) -> dict[str, Any]:
    assert self._process.stdout is not None
    line = self._process.stdout.readline()
    if not line:
      raise errors.UsageError(
        f'{self.label} ended with code {self._process.wait()}; its own words '
        'stand above'
      )
    return json.loads(line)
