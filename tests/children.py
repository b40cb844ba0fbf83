"""Processes that tests start, bounded by CPU time, which end with their test.

A bound in wall-clock seconds fails on a busy machine, and the process that it
interrupts goes on running. A `Child` is bounded by the CPU seconds that it uses
together with all processes that it starts, so a busy machine only makes it
slower. It may be idle, using almost no CPU, for `IDLE_S`. If it exceeds a
bound, its Python processes print the stacks of their threads, all its processes
are killed, and its `with` block fails.

A variable of the environment marks the processes of a child; it persists
through new sessions and the death of a parent. The bounds need /proc, and do
not apply where there is none.
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

CPU_S = 600.0  # CPU seconds that a child may use with all its processes
IDLE_S = 120.0  # seconds that it may use almost no CPU, nor wait for one
LEAST = 0.01  # the share of them that counts as idle; hung JAX uses 0.003
LOOK_S = 2.0  # seconds between two looks at its processes
STACKS_S = 20.0  # seconds for printing the stacks

_MARK = 'KD_JAX_TEST_CHILD'
_PROC = pathlib.Path('/proc')

# Kills the processes whose environment has the line $1, once the test process
# closes the guard's standard input, or dies, which closes it too.
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
  """A process in its own session, which ends with its `with` block.

  The methods of `subprocess.Popen` need no time-out: they return when the
  process is killed for exceeding a bound.

  Attributes:
    cut: Why it was killed for exceeding a bound; '' if it was not.
  """

  started = 0  # the number of children of this process so far

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
    if self.poll() is None:  # else another group may have its number
      os.killpg(self.pid, signal.SIGKILL)
    self._kill_all()
    self.wait()
    output = self._rest()
    if error is not None and (self.cut or output):
      error.add_note(f'{self.args}: {self.cut}\n{output}')
    elif self.cut:
      pytest.fail(f'{self.args}: {self.cut}\n{output}')

  def cpu_s(self):
    """Returns the CPU seconds of its processes and of those they waited for."""
    return _cpu_s(self._numbers())

  def _numbers(self):
    """Returns the process ids of the child and of all that it started."""
    mark, numbers = self._mark.encode(), []
    for path in _PROC.glob('[0-9]*'):
      with contextlib.suppress(OSError):  # ended, or of another user
        if mark in (path / 'environ').read_bytes().split(b'\0'):
          numbers.append(int(path.name))
    return numbers

  def _watch(self):
    """Kills all processes of the child when it exceeds a bound."""
    last_used, looks = 0.0, 0
    while not self._over.wait(LOOK_S):
      numbers = self._numbers()
      used = _cpu_s(numbers)
      # Looks are counted instead of seconds, as the machine may sleep, or be
      # too busy for a look.
      looks += not _runnable(numbers)
      if abs(used - last_used) > LEAST * self._idle_s or not numbers:
        last_used, looks = used, 0
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
    """Sends the processes the signal on which Python prints its stacks."""
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
    """Returns the output that nobody has read, and closes the pipes."""
    output = ''
    if any(p and not p.closed for p in (self.stdout, self.stderr)):
      with contextlib.suppress(ValueError):  # one pipe of two is closed
        output = '\n'.join(str(text) for text in self.communicate() if text)
    for pipe in (self.stdin, self.stdout, self.stderr):
      with contextlib.suppress(BrokenPipeError):
        if pipe:
          pipe.close()
    return output


def _runnable(numbers):
  """Returns whether a thread of the processes runs or waits for CPU or disk."""
  for number in numbers:
    for path in (_PROC / f'{number}/task').glob('*/stat'):
      with contextlib.suppress(OSError):  # the process has just ended
        if path.read_text().rpartition(')')[2].split()[0] in 'RD':
          return True
  return False


def _cpu_s(numbers):
  """Returns the CPU seconds of processes and of those they have waited for."""
  ticks = 0
  for number in numbers:
    with contextlib.suppress(OSError):  # the process has just ended
      text = (_PROC / f'{number}/stat').read_text()
      ticks += sum(map(int, text.rpartition(')')[2].split()[11:15]))
  return ticks / os.sysconf('SC_CLK_TCK')


def run(command, *, text_in=None, check=False, **options):
  """Runs a command like `subprocess.run`, and captures its output.

  Args:
    command: The program and its arguments.
    text_in: The standard input.
    check: Whether the test fails if the exit code is not 0.
    **options: Further arguments of `Child`.

  Returns:
    A `CompletedProcess`.
  """
  pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE}
  if text_in is not None:
    pipes['stdin'] = subprocess.PIPE
  with Child(command, **{**pipes, **options}) as child:
    out, err = child.communicate(text_in)
    assert not (check and child.returncode), f'{command}\n{out}\n{err}'
  return subprocess.CompletedProcess(command, child.returncode, out, err)


def until(happens, *children):
  """Waits until `happens()` is true.

  Args:
    happens: Returns whether it has happened.
    *children: The processes that must not end before.

  Raises:
    AssertionError: A child ended before.
  """
  while not happens():
    ended = [child for child in children if child.poll() is not None]
    if ended and not happens():
      codes = [(child.args, child.returncode) for child in ended]
      raise AssertionError(f'ended before it happened: {codes}')
    time.sleep(0.01)


@functools.cache
def slowness():
  """Returns the wall-clock seconds that a CPU second takes, at least 1."""
  began, used = time.monotonic(), time.process_time()
  while time.process_time() < used + 0.1:
    pass
  return max(1.0, (time.monotonic() - began) / 0.1)


def left():
  """Returns the command lines of this process's children, by process id."""
  try:
    os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
  except ChildProcessError:
    return {}  # the usual case, without a look at /proc
  commands = {}
  for path in _PROC.glob('[0-9]*'):
    with contextlib.suppress(OSError):  # the process has just ended
      parent = (path / 'stat').read_bytes().rpartition(b')')[2].split()[1]
      if int(parent) == os.getpid():
        words = (path / 'cmdline').read_bytes().split(b'\0')
        command = b' '.join(words).decode(errors='replace')
        commands[int(path.name)] = command
  # The standard library never ends these once they are in use.
  helpers = ('multiprocessing.resource_tracker', 'multiprocessing.forkserver')
  return {
    n: c
    for n, c in commands.items()
    if not any(helper in c for helper in helpers)
  }


@pytest.fixture(autouse=True)
def no_process_is_left():
  """Fails a test that leaves a process running, and kills that process."""
  before = left()
  yield
  new_commands = {
    n: command for n, command in left().items() if n not in before
  }
  if not new_commands:
    return
  for number in new_commands:
    with contextlib.suppress(ProcessLookupError):  # it has just ended
      os.kill(number, signal.SIGKILL)
  processes = [
    candidate
    for candidate in gc.get_objects()
    if issubclass(type(candidate), subprocess.Popen)
  ]
  for process in processes:
    if process.pid in new_commands and process.returncode is None:
      process.wait()  # else it would warn in a later test
      for pipe in filter(None, (process.stdin, process.stdout, process.stderr)):
        pipe.close()
  for number in new_commands:
    with contextlib.suppress(ChildProcessError):  # waited for above
      os.waitpid(number, 0)
  pytest.fail(f'the test left processes behind: {new_commands}')


@pytest.fixture(autouse=True, scope='module')
def nothing_is_left_open():
  """Collects garbage after a test file that started children.

  Warnings of what they left open are then reported with that file.
  """
  before = Child.started
  yield
  if Child.started != before:
    gc.collect()
