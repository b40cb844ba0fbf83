"""Whatever becomes of stderr, the watchdog ends its process with 76."""

import os
import sys

from tests import children
from tests.attacks import attack

# By a clock of its own, which the watchdog finds far ahead.
_HANG = """
import os, resource, sys, threading, time, types
from kd_jax.runtime import watchdog
now = 0.0
watchdog.time = types.SimpleNamespace(monotonic=lambda: now)
{harm}
with watchdog.Watchdog(0.2, 'config.limit'):
  now += 9.0
  time.sleep(600)
"""
_IN_PROCESS = {
  'none': 'sys.stderr = None',
  'closed-object': 'sys.stderr.close()',
  'closed-descriptor': 'os.close(2)',
  'no-descriptor': 'import io; sys.stderr = io.StringIO()',
  'an-object-that-raises': """
class Bad:
  def __getattr__(self, name): raise RuntimeError(name)
sys.stderr = Bad()
""",
  'an-object-that-blocks': """
class Slow:
  def write(self, text): time.sleep(600)
  def flush(self): time.sleep(600)
  def fileno(self): return 2
sys.stderr = Slow()
""",
  'a-lock-that-a-thread-holds': """
def hold():
  class Held:
    def write(self, text):
      with lock: pass
    def flush(self):
      with lock: pass
    def fileno(self): return 2
  lock = threading.Lock()
  lock.acquire()
  return Held()
sys.stderr = hold()
""",
  'no-descriptor-left': """
most = os.dup(0)
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
""",
  'many-threads': """
def deep(n):
  if n: deep(n - 1)
  else: time.sleep(600)
for _ in range(60):
  threading.Thread(target=deep, args=(90,), daemon=True).start()
""",
}
_ENDED = 'ended. The same command goes on from the last checkpoint'


def _ends(stderr, harm='', **options):
  """Raises unless the process ends with 76."""
  with children.Child(
    [sys.executable, '-c', _HANG.format(harm=harm)],
    stderr=stderr,
    idle_s=10,
    **options,
  ) as child:
    code = child.wait()
  assert code == 76, f'exit code {code}'


def _full_pipe():
  """Returns the ends of a pipe that accepts nothing more."""
  reading, writing = os.pipe()
  os.set_blocking(writing, False)
  try:
    while True:
      os.write(writing, b'x' * 4096)
  except BlockingIOError:
    os.set_blocking(writing, True)
  return reading, writing


@attack(quick=False)
def an_ordinary_stderr_has_the_stacks(place):
  """The words are there where they can be."""
  with (place / 'said').open('wb') as said:
    _ends(said)
  text = (place / 'said').read_text()
  assert '<module>' in text
  assert _ENDED in text


@attack(quick=True)
def a_full_pipe(place):
  """A reader that has stopped reading."""
  reading, writing = _full_pipe()
  try:
    _ends(writing)
  finally:
    os.close(reading)
    os.close(writing)


@attack(quick=False)
def a_pipe_without_a_reader(place):
  """What `2>&1 | head` leaves."""
  reading, writing = os.pipe()
  os.close(reading)
  try:
    _ends(writing)
  finally:
    os.close(writing)


@attack(quick=False)
def no_stderr(place):
  """What `2>&-` leaves."""
  _ends(None, preexec_fn=lambda: os.close(2))


@attack(quick=False)
def a_full_device(place):
  """Where every write fails."""
  with open('/dev/full', 'wb') as full:
    _ends(full)


@attack(quick=False)
def a_terminal_that_is_gone(place):
  """The other end of a pseudo-terminal is closed."""
  ours, theirs = os.openpty()
  os.close(ours)
  try:
    _ends(theirs)
  finally:
    os.close(theirs)


@attack(quick=False)
def a_terminal_that_is_stopped(place):
  """Ctrl-S, or a window that nobody reads."""
  ours, theirs = os.openpty()
  os.set_blocking(theirs, False)
  try:
    while True:
      os.write(theirs, b'x' * 4096)
  except BlockingIOError:
    os.set_blocking(theirs, True)
  try:
    _ends(theirs)
  finally:
    os.close(ours)
    os.close(theirs)


@attack(quick=False, cases=_IN_PROCESS)
def in_the_process(place, harm):
  """A program or a thread of it did something to stderr."""
  with (place / 'said').open('wb') as said:
    _ends(said, harm)
