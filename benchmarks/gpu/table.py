"""Times training steps beside PyTorch's, in turns; run.py starts it.

Every row is a process of its own. Several compile side by side; then one after
the other takes a turn while the others stand still. What is not ready when it
is time to begin the turns is left out, and so is what ends in between.
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
from kd_jax.benchmark import cost, turns

_COMPILING = 0.7  # of the time; the rest is for the turns
_TURN_S = 5.0  # seconds that a turn of a slow row is cut down to
_OVER_S = 5.0  # seconds over the time, after which a turn is cut off


class Table:
  """All that takes turns.

  Attributes:
    options: See run.py.
    began: When its time began, on `time.monotonic`.
    ready: What takes turns, by its name.
    left_out: Why others do not, by their names.
    times: The turns that count, by the name of who took them.
    figures: The rows that table.json holds.
    rounds: How many counted turns each of these rows took.
  """

  def __init__(self, options: dict[str, Any]):
    """Begins the time of the table."""
    self.options = options
    self.began = time.monotonic()
    self.ready: dict[str, Any] = {}
    self.left_out: dict[str, str] = {}
    self.times: dict[str, list[cost.Turn]] = {}
    self.figures: list[dict[str, Any]] = []
    self.rounds = 0
    self._ms: dict[str, float] = {}  # of the newest turn of each
    self._lock = threading.Lock()
    self._closed = False

  def left(self, share: float = 1.0) -> float:
    """Returns the seconds that are left of a share of the time."""
    return self.began + share * self.options['seconds'] - time.monotonic()

  def start(self, name: str, make: Callable[[], Any]) -> None:
    """Makes what takes turns, unless there is no time for it; in a thread."""
    if self.left(_COMPILING) < 0:
      self._out(name, 'no time was left to start it')
      return
    began = time.monotonic()
    try:
      made = make()
    except (errors.UsageError, OSError, ValueError) as error:
      self._out(name, str(error))
      return
    with self._lock:
      if self._closed:
        made.close()
        return
      self.ready[name] = made
    print(f'{name}: ready after {time.monotonic() - began:.0f} s', flush=True)

  def _out(self, name: str, why: str) -> None:
    with self._lock:
      if not self._closed:
        self.left_out[name] = why
    print(f'{name} is left out: {why}', flush=True)

  def begin_turns(self, names: Sequence[str]) -> None:
    """Leaves out what is not ready by now."""
    with self._lock:
      self._closed = True
      for name in names:
        if name not in self.ready:
          late = 'it was not ready in time'
          self.left_out.setdefault(name, late)

  def take_turns(self) -> None:
    """Takes the rounds, the first of which does not count."""
    for number in range(self.options['repeats'] + 1):
      for name, one in list(self.ready.items()):
        if self.left() < 0:
          print(f'the time is up in round {number}', flush=True)
          self.write(max(0, number - 1))
          return
        try:
          took = one.turn(self.steps(name))
        except errors.UsageError as error:
          self._out(name, str(error))
          del self.ready[name]
          one.close()
          continue
        self._ms[name] = took.ms
        if number:
          self.times.setdefault(name, []).append(took)
      self.write(number)

  def steps(self, name: str) -> int:
    """Returns the steps of a row's next turn: fewer where it is slow."""
    about = getattr(self.ready[name], 'about', {})
    ms = self._ms.get(name, about.get('ms'))
    steps = self.options['steps']
    return steps if not ms else min(steps, max(1, int(1e3 * _TURN_S / ms)))

  def write(self, rounds: int) -> None:
    """Writes table.json with what is known after some counted rounds."""
    figures = self._figures(rounds) if rounds else []
    self.figures, self.rounds = figures, rounds
    text = turns.table(figures) if figures else 'no row of ours took its turns'
    for name, why in self.left_out.items():
      text += f'\nleft out: {name}: {why}'
    content = {'rows': figures, 'left_out': self.left_out, 'rounds': rounds}
    path = pathlib.Path(self.options['results']) / 'table.json'
    chunks.replace(path, json.dumps({**content, 'text': text}, indent=2))

  def _figures(self, rounds: int) -> list[dict[str, Any]]:
    """Returns a row of figures for each that took all rounds."""
    kept = {n: one for n, one in self.ready.items() if n in self.times}
    times = {id(one): self.times[n][:rounds] for n, one in kept.items()}
    products: dict[str, Any] = {
      o.dtype: o for o in kept.values() if isinstance(o, rows.Product)
    }
    ours: dict[str, Any] = {
      n: o for n, o in kept.items() if isinstance(o, rows.Ours)
    }
    if not ours:
      return []
    first = next(ours[name] for name in rows.ROWS if name in ours)
    found: list[dict[str, Any]] = []
    for name in rows.ROWS:
      one = kept.get(name)
      if isinstance(one, rows.Ours):
        row = turns.row(ours[name], times, first, products.get(one.dtype))
        if one.peak_bytes:
          row['memory_bytes'] = one.peak_bytes
          row['memory_by'] = "the device's peak"
        found.append(row)
      elif isinstance(one, rows.Torch) and rows.ROWS[name]['of'] in ours:
        one.ours = ours[rows.ROWS[name]['of']]
        if one.sizes != one.ours.sizes:
          self.left_out[name] = (
            f'it trains {one.sizes} parameters in networks and beside them, '
            f'and ours {one.ours.sizes}'
          )
          continue
        found.append(turns.peer_row(one, times))
    found[0]['peak'] = {
      dtype: turns.rate(each.flops, times[id(each)])
      for dtype, each in products.items()
    }
    return found


def start_all(table: Table, waiting: dict[str, Callable[[], Any]]) -> None:
  """Starts all in lanes, and waits until they are ready or time is up."""
  names = list(waiting)
  queue = collections.deque(waiting.items())

  def lane() -> None:
    while True:
      try:
        name, make = queue.popleft()
      except IndexError:
        return
      table.start(name, make)

  lanes = [
    threading.Thread(target=lane, daemon=True)
    for _ in range(table.options['lanes'])
  ]
  for each in lanes:
    each.start()
  for each in lanes:
    each.join(max(0.0, table.left(_COMPILING)))
  table.begin_turns(names)


def main(path: str) -> int:
  """Makes the table; `path` is of the options that run.py wrote."""
  options = json.loads(pathlib.Path(path).read_text('utf-8'))
  # Peers start in threads, where they cannot set this themselves. The alarm is
  # for a turn that does not end where run.py no longer lives to send SIGTERM.
  for number in (signal.SIGTERM, signal.SIGALRM):
    signal.signal(number, lambda number, _: sys.exit(128 + number))
  signal.setitimer(signal.ITIMER_REAL, options['seconds'] + _OVER_S)
  # Only shapes are computed in this process; the others take the device.
  jax.config.update('jax_platforms', 'cpu')
  table = Table(options)
  waiting = rows.makers(options)
  try:
    start_all(table, waiting)
    table.take_turns()
  finally:
    for one in table.ready.values():
      one.close()
  print(
    f'{len(table.figures)} rows, n={table.rounds} turns'
    + f'; {len(table.left_out)} left out' * bool(table.left_out)
  )
  return int(not table.figures)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1]))
