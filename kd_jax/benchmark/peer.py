"""Processes of their own that take turns, so that all meet the same load.

What other frameworks do is measured in such processes: nothing of them is ever
imported here.
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
  """Ends by an exception: a peer would else stand still for ever."""
  del frame
  sys.exit(128 + number)


class Peer:
  """A process that answers every line with a line of JSON.

  It stands still, its own processes too, while it is not its turn, so that
  nothing is prepared beside the others' turns.

  Attributes:
    label: how it is called.
    about: what it says of itself; 'left_out' where it cannot run here.
  """

  def __init__(
    self,
    label: str,
    command: Sequence[str],
    environment: Mapping[str, str] | None = None,
  ):
    """Starts it and waits until it is ready.

    Args:
      label: how it is called.
      command: that starts it.
      environment: what its environment has beside ours.

    Raises:
      UsageError: where it ends instead.
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
    try:
      self.about = self._answer()
    except BaseException:
      self.close()
      raise
    self._signal(signal.SIGSTOP)

  def ask(self, line: object) -> dict[str, Any]:
    """Its answer to a line; then it stands still.

    Raises:
      UsageError: where it ended instead.
    """
    self._signal(signal.SIGCONT)
    assert self._process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # said below
      self._process.stdin.write(f'{line}\n')
      self._process.stdin.flush()
    answer = self._answer()
    self._signal(signal.SIGSTOP)
    return answer

  def cpu_s(self) -> float:
    """CPU seconds of it and of its processes until now; 0 where unknown."""
    ticks = 0
    for path in pathlib.Path('/proc').glob('[0-9]*/stat'):
      try:
        fields = path.read_text().rpartition(')')[2].split()
      except OSError:
        continue  # it has just ended
      if int(fields[3]) == self._process.pid:  # the session
        ticks += int(fields[11]) + int(fields[12])  # in user mode, in system's
    return ticks / os.sysconf('SC_CLK_TCK')

  def close(self) -> None:
    """Ends it with its processes."""
    self._signal(signal.SIGKILL)
    self._process.communicate()

  def _signal(self, number: signal.Signals) -> None:
    if self._process.poll() is None:  # else its number may be another's
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
