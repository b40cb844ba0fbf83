"""Processes that tests start: bounded by their CPU time, ended with their test.

A bound in wall-clock seconds fails on a busy machine, and what it interrupts
goes on running. A `Child` is bounded by the CPU seconds that it uses together
with everything that it starts, so a busy machine only makes it slower. It may
use next to no CPU for `IDLE_S`. Where it passes a bound, its Python processes
print the stacks of their threads, all its processes are killed, and its `with`
block fails.

The processes of a child are known by a variable of their environment, which
stays through new sessions and the death of a parent. The bounds need /proc:
without it there are none.
"""

import contextlib
import functools
import gc
import os
import pathlib
import resource
import signal
import subprocess
import threading
import time
import uuid

import pytest

CPU_S = 600.0  # what a child may use with all its processes
IDLE_S = 120.0  # how long it may use next to none, and not wait for any
LEAST = 0.01  # of that time: a hung process of JAX uses 0.003
LOOK_S = 2.0  # from one look at its processes to the next
STACKS_S = 20.0  # for printing the stacks

_MARK = 'KD_JAX_TEST_CHILD'
_PROC = pathlib.Path('/proc')

# Kills the processes whose environment has the line $1, once the test process
# closes this one's standard input: its own death does so too.
_GUARD = """
read -r _
while found=$(grep -lsz "^$1\\$" /proc/[0-9]*/environ); [ "$found" ]; do
  for path in $found; do
    number=${path#/proc/}
    kill -KILL "${number%/environ}" 2> /dev/null
  done
done
"""


class Child(subprocess.Popen):
  """A process in a session of its own, which ends with its `with` block.

  The methods of `subprocess.Popen` need no time-out: they return when the
  process is ended for passing a bound.

  Attributes:
    cut: why it was ended for passing a bound; '' where it was not.
  """

  started = 0  # how many there were in this process

  def __init__(
    self, command, *, cpu_s=CPU_S, idle_s=IDLE_S, env=None, **options
  ):
    Child.started += 1
    self.cut = ''
    self._cpu_s, self._idle_s = cpu_s, idle_s
    self._mark = f'{_MARK}={uuid.uuid4().hex}'
    self._over = threading.Event()
    self._watcher = threading.Thread(target=self._watch, daemon=True)
    self._guard = subprocess.Popen(
      ['bash', '-c', _GUARD, 'guard', self._mark],
      stdin=subprocess.PIPE,
      env={'PATH': os.environ['PATH']},
      start_new_session=True,
    )
    environment = dict(os.environ if env is None else env)
    environment['PYTHONFAULTHANDLER'] = '1'
    environment[_MARK] = self._mark.partition('=')[2]
    defaults = {'stdin': subprocess.DEVNULL, 'text': True}
    try:
      super().__init__(
        command,
        env=environment,
        start_new_session=True,
        **{**defaults, **options},
      )
    except BaseException:
      self._kill_all()
      raise
    if _PROC.exists():
      self._watcher.start()

  def __exit__(self, kind, error, trace):
    self._over.set()
    if self._watcher.is_alive():
      self._watcher.join()
    if self.poll() is None:  # else the group's number may be another's
      os.killpg(self.pid, signal.SIGKILL)
    self._kill_all()
    self.wait()
    rest = self._rest()
    if error is not None and (self.cut or rest):
      error.add_note(f'{self.args}: {self.cut}\n{rest}')
    elif self.cut:
      pytest.fail(f'{self.args}: {self.cut}\n{rest}')

  def cpu_s(self):
    """CPU seconds of its processes, and of those that they have waited for."""
    return _cpu_s(self._numbers())

  def _numbers(self):
    """The process numbers of it and of all that it started."""
    mark, found = self._mark.encode(), []
    for path in _PROC.glob('[0-9]*'):
      with contextlib.suppress(OSError):  # it has just ended, or is another's
        if mark in (path / 'environ').read_bytes().split(b'\0'):
          found.append(int(path.name))
    return found

  def _watch(self):
    """Ends all its processes where they pass a bound."""
    known, looks = 0.0, 0
    while not self._over.wait(LOOK_S):
      numbers = self._numbers()
      used = _cpu_s(numbers)
      # Looks are counted, for the machine may be too busy to look, or asleep.
      looks += not _runnable(numbers)
      if abs(used - known) > LEAST * self._idle_s or not numbers:
        known, looks = used, 0
      if used > self._cpu_s:
        self.cut = f'ended after {used:.1f} of {self._cpu_s:g} CPU seconds'
      elif looks * LOOK_S > self._idle_s:
        self.cut = (
          f'ended as it did nothing for {self._idle_s:g} s, after {used:.1f} '
          'CPU seconds'
        )
      if self.cut:
        self._print_stacks()
        self._kill_all()
        return

  def _print_stacks(self):
    """Ends its processes by the signal on which Python prints its stacks."""
    for number in self._numbers():
      with contextlib.suppress(ProcessLookupError):
        resource.prlimit(number, resource.RLIMIT_CORE, (0, 0))
        os.kill(number, signal.SIGABRT)
        os.kill(number, signal.SIGCONT)
    until = time.monotonic() + STACKS_S
    while self._numbers() and time.monotonic() < until:
      time.sleep(0.1)

  def _kill_all(self):
    self._guard.stdin.close()
    self._guard.wait()

  def _rest(self):
    """What it said and nobody has read; closes its pipes."""
    said = ''
    if any(p and not p.closed for p in (self.stdout, self.stderr)):
      with contextlib.suppress(ValueError):  # one of two was closed before
        said = '\n'.join(str(text) for text in self.communicate() if text)
    for pipe in (self.stdin, self.stdout, self.stderr):
      with contextlib.suppress(BrokenPipeError):
        if pipe:
          pipe.close()
    return said


def _runnable(numbers):
  """Whether a thread of these processes runs, or waits for a CPU or a disk."""
  for number in numbers:
    for path in (_PROC / f'{number}/task').glob('*/stat'):
      with contextlib.suppress(OSError):  # it has just ended
        if path.read_text().rpartition(')')[2].split()[0] in 'RD':
          return True
  return False


def _cpu_s(numbers):
  ticks = 0
  for number in numbers:
    with contextlib.suppress(OSError):  # it has just ended
      text = (_PROC / f'{number}/stat').read_text()
      ticks += sum(map(int, text.rpartition(')')[2].split()[11:15]))
  return ticks / os.sysconf('SC_CLK_TCK')


def run(command, *, text_in=None, check=False, **options):
  """As `subprocess.run` with captured output: a `CompletedProcess`.

  Args:
    command: what is started.
    text_in: its standard input.
    check: whether it fails the test by ending with another code than 0.
    **options: of `Child`.
  """
  pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE}
  if text_in is not None:
    pipes['stdin'] = subprocess.PIPE
  with Child(command, **{**pipes, **options}) as child:
    out, err = child.communicate(text_in)
    assert not (check and child.returncode), f'{command}\n{out}\n{err}'
  return subprocess.CompletedProcess(command, child.returncode, out, err)


def until(happens, *children):
  """Waits until `happens()` is true; fails where a child ends before it is."""
  while not happens():
    ended = [child for child in children if child.poll() is not None]
    if ended and not happens():
      codes = [(child.args, child.returncode) for child in ended]
      raise AssertionError(f'ended before it happened: {codes}')
    time.sleep(0.01)


@functools.cache
def slowness():
  """Wall-clock seconds that this process waits for a CPU second; at least 1."""
  began, used = time.monotonic(), time.process_time()
  while time.process_time() < used + 0.1:
    pass
  return max(1.0, (time.monotonic() - began) / 0.1)


def left():
  """This process's child processes: number to command line."""
  try:
    os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
  except ChildProcessError:
    return {}  # as nearly always, and in no time
  found = {}
  for path in _PROC.glob('self/task/*/children'):
    for number in map(int, path.read_text().split()):
      command = (_PROC / f'{number}/cmdline').read_bytes().split(b'\0')
      found[number] = b' '.join(command).decode()
  # The standard library keeps these from their first use on.
  own = ('multiprocessing.resource_tracker', 'multiprocessing.forkserver')
  return {n: c for n, c in found.items() if not any(o in c for o in own)}


@pytest.fixture(autouse=True)
def no_process_is_left():
  """Fails the test that leaves a process behind, and ends that process."""
  before = left()
  yield
  new = {n: command for n, command in left().items() if n not in before}
  if not new:
    return
  for number in new:
    os.kill(number, signal.SIGKILL)
  objects = [
    o for o in gc.get_objects() if issubclass(type(o), subprocess.Popen)
  ]
  for one in objects:
    if one.pid in new and one.returncode is None:
      one.wait()  # else it would warn in another test
      for pipe in filter(None, (one.stdin, one.stdout, one.stderr)):
        pipe.close()
  for number in new:
    with contextlib.suppress(ChildProcessError):  # it was waited for above
      os.waitpid(number, 0)
  pytest.fail(f'the test left processes behind: {new}')


@pytest.fixture(autouse=True, scope='module')
def nothing_is_left_open():
  """Warnings of what a file's processes left open come with that file."""
  before = Child.started
  yield
  if Child.started != before:
    gc.collect()
