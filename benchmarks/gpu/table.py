"""Times training steps of kd_jax and PyTorch in turns; run.py starts it.

Every row is a process of its own. Several compile side by side; then they take
turns, and all but one stand still. A row that is not ready when the turns begin
is left out, and so is one that ends in between.
"""

import collections
from collections.abc import Callable, Sequence
import json
import pathlib
import signal
import sys
import threading
import time
from typing import Any

import chunks
import jax
import rows

from kd_jax import errors
from kd_jax.benchmark import cost, peer, turns

_COMPILING = 0.7  # share of the time; the rest is for the turns
_TURN_S = 5.0  # seconds to which the turn of a slow row is shortened
_OVER_S = 0.5  # seconds beyond the time limit, after which a turn is ended
# A turn is ended, and its row left out, after so many times what it should
# take, but not before so many seconds; after others where nothing is known.
_SLOWER, _LEAST_S, _UNKNOWN_S = 4.0, 20.0, 60.0


class Table:
  """The rows and matrix products that take turns, and their times.

  Attributes:
    options: The options of run.py.
    began: When its time began, on `time.monotonic`.
    ready: The participants that take turns, by name.
    left_out: Why others do not, by their names.
    times: The turns that count, by the participant's name.
    figures: The rows that table.json holds.
    rounds: The least number of counted turns of any that took one.
  """

  def __init__(self, options: dict[str, Any]):
    """Starts the time of the table."""
    self.options = options
    self.began = options['until'] - options['seconds']
    self.ready: dict[str, Any] = {}
    self.left_out: dict[str, str] = {}
    self.times: dict[str, list[cost.Turn]] = {}
    self.figures: list[dict[str, Any]] = []
    self.rounds = 0
    self._ms: dict[str, float] = {}  # per step, in the newest turn of each
    self._at_work = ''
    self._started: dict[str, float] = {}
    self._lock = threading.Lock()
    self._closed = False

  def left(self, share: float = 1.0) -> float:
    """Returns the seconds that are left of a share of the time."""
    return self.began + share * self.options['seconds'] - time.monotonic()

  def start(self, name: str, make: Callable[[], Any]) -> None:
    """Starts a participant, unless there is no time for it; threads call this.

    Args:
      name: The name of the participant.
      make: Starts it, and returns it once it is ready.
    """
    if self.left(_COMPILING) < 0:
      self._out(name, 'no time was left to start it')
      return
    began = self._started[name] = time.monotonic()
    try:
      participant = make()
    except (errors.UsageError, OSError, ValueError) as error:
      self._out(name, str(error))
      return
    with self._lock:
      if self._closed:
        participant.close()
        return
      self.ready[name] = participant
    print(f'{name}: ready after {time.monotonic() - began:.0f} s', flush=True)

  def _out(self, name: str, why: str) -> None:
    with self._lock:
      if not self._closed:
        self.left_out[name] = why
    print(f'{name} is left out: {why}', flush=True)

  def begin_turns(self, names: Sequence[str]) -> None:
    """Leaves out, and ends, the participants among `names` not yet ready."""
    with self._lock:
      self._closed = True
      for name in names:
        if name not in self.ready:
          late = 'it was not ready in time'
          if name in self._started:
            late += f': {time.monotonic() - self._started[name]:.0f} s after it'
            late += ' was started'
          self.left_out.setdefault(name, late)
    peer.end_starting()

  def take_turns(self) -> None:
    """Takes the rounds, of which the first does not count."""
    for number in range(self.options['repeats'] + 1):
      for name, participant in list(self.ready.items()):
        if self.left() < self.steps(name) * (self._step_ms(name) or 0.0) / 1e3:
          print(f'the time is up in round {number}', flush=True)
          self.write()
          return
        try:
          turn = self._turn(name, participant)
        except errors.UsageError as error:
          self._out(name, str(error))
          del self.ready[name]
          participant.close()
          continue
        self._ms[name] = turn.ms
        if number:
          self.times.setdefault(name, []).append(turn)
      self.write()

  def _turn(self, name: str, participant: Any) -> cost.Turn:
    """Takes a turn, which is ended if it takes far too long.

    Raises:
      UsageError: The process ended, by itself or for that.
    """
    steps, ms = self.steps(name), self._step_ms(name)
    limit = _UNKNOWN_S
    if ms is not None:
      limit = max(_LEAST_S, _SLOWER * steps * ms / 1e3)
    late = threading.Event()

    def end() -> None:
      late.set()
      participant.kill()

    timer = threading.Timer(limit, end)
    timer.start()
    self._at_work = name
    self.write()
    try:
      return participant.turn(steps)
    except errors.UsageError as error:
      if not late.is_set():
        raise
      raise errors.UsageError(
        f'a turn of {steps} steps took over {limit:.0f} s'
      ) from error
    finally:
      timer.cancel()
      self._at_work = ''

  def _step_ms(self, name: str) -> float | None:
    """Returns how long a step of a row takes, as far as that is known."""
    about = getattr(self.ready[name], 'about', {})
    return self._ms.get(name, about.get('ms', about.get('warm_ms')))

  def steps(self, name: str) -> int:
    """Returns the steps of a row's next turn, which are fewer if it is slow."""
    steps, ms = self.options['steps'], self._step_ms(name)
    return steps if not ms else min(steps, max(1, int(1e3 * _TURN_S / ms)))

  def write(self) -> None:
    """Writes table.json with the figures of all turns that count."""
    self.figures = figures = self._figures()
    counts = [len(taken) for n, taken in self.times.items() if n in self.ready]
    self.rounds = min(counts, default=0)
    text = turns.table(figures) if figures else 'no row of ours took its turns'
    if counts:
      n = ' to '.join(map(str, sorted({min(counts), max(counts)})))
      text += f'\nn={n} turns'
    if self._at_work:
      text += f'\nat work when this was written: {self._at_work}'
    for name, why in self.left_out.items():
      text += f'\nleft out: {name}: {why}'
    content = {
      'rows': figures,
      'left_out': self.left_out,
      'rounds': self.rounds,
      'at_work': self._at_work,
    }
    path = pathlib.Path(self.options['results']) / 'table.json'
    chunks.replace(path, json.dumps({**content, 'text': text}, indent=2))

  def _figures(self) -> list[dict[str, Any]]:
    """Returns a row of figures for each that took a turn that counts.

    A row has the turns that it and those that it is compared with all took.
    """
    participants = {
      n: member for n, member in self.ready.items() if n in self.times
    }
    taken = {id(member): self.times[n] for n, member in participants.items()}

    def common(*members: Any) -> dict[int, list[cost.Turn]]:
      least = min(len(taken[id(member)]) for member in members)
      return {id(member): taken[id(member)][:least] for member in members}

    products: dict[str, Any] = {
      participant.dtype: participant
      for participant in participants.values()
      if isinstance(participant, rows.Product)
    }
    own_rows: dict[str, Any] = {
      n: participant
      for n, participant in participants.items()
      if isinstance(participant, rows.Ours)
    }
    if not own_rows:
      return []
    first_row = next(own_rows[name] for name in rows.ROWS if name in own_rows)
    figures: list[dict[str, Any]] = []
    for name in rows.ROWS:
      member = participants.get(name)
      if isinstance(member, rows.Ours):
        other = own_rows.get(rows.ROWS[name].get('beside', ''), first_row)
        product = products.get(member.dtype)
        times = common(*filter(None, (member, other, product)))
        row = turns.row(own_rows[name], times, other, product)
        if member.peak_bytes:
          row['memory_bytes'] = member.peak_bytes
          row['memory_by'] = "the device's peak"
        figures.append(row)
      elif isinstance(member, rows.Torch) and rows.ROWS[name]['of'] in own_rows:
        member.ours = own_rows[rows.ROWS[name]['of']]
        if member.sizes != member.ours.sizes:
          self.left_out[name] = (
            f'it trains {member.sizes} parameters in networks and beside them, '
            f'and ours {member.ours.sizes}'
          )
          continue
        times = common(member, member.ours)
        figures.append(turns.peer_row(member, times))
    figures[0]['peak'] = {
      dtype: turns.rate(product.flops, taken[id(product)])
      for dtype, product in products.items()
    }
    return figures


def start_all(table: Table, waiting: dict[str, Callable[[], Any]]) -> None:
  """Starts all participants in lanes, and waits until they are ready.

  Participants that are not ready when their share of the time is up are left
  out.

  Args:
    table: The table that they join.
    waiting: The constructors by name, in the order of starting.
  """
  names = list(waiting)
  queue = collections.deque(waiting.items())

  def lane() -> None:
    while True:
      try:
        name, make = queue.popleft()
      except IndexError:
        return
      table.start(name, make)

  threads = [
    threading.Thread(target=lane, daemon=True)
    for _ in range(table.options['lanes'])
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join(max(0.0, table.left(_COMPILING)))
  table.begin_turns(names)


def main(path: str) -> int:
  """Makes the table.

  Args:
    path: The file of options that run.py wrote.

  Returns:
    The exit code: 0 if the table has a row, else 1.
  """
  options = json.loads(pathlib.Path(path).read_text('utf-8'))
  # Peers start in threads, where they cannot install signal handlers. The alarm
  # ends a turn that hangs if run.py is no longer there to send SIGTERM.
  for number in (signal.SIGTERM, signal.SIGALRM):
    signal.signal(number, lambda number, _: sys.exit(128 + number))
  left = options['until'] - time.monotonic()
  signal.setitimer(signal.ITIMER_REAL, max(0.01, left + _OVER_S))
  # This process only computes shapes; the rows use the device.
  jax.config.update('jax_platforms', 'cpu')
  table = Table(options)
  waiting = rows.makers(options)
  try:
    start_all(table, waiting)
    table.take_turns()
  finally:
    for participant in table.ready.values():
      participant.close()
  print(
    f'{len(table.figures)} rows, n={table.rounds} turns'
    + f'; {len(table.left_out)} left out' * bool(table.left_out)
  )
  return int(not table.figures)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1]))
