"""Runs that end without end, numbers that are none, memory that runs out."""

import os
import pathlib
import subprocess

import kd_jax
from tests import children
from tests.attacks import attack

_LAUNCH = pathlib.Path(kd_jax.__file__).resolve().parents[1] / 'launch'
_MANY = 40  # starts after which the stand-in for a run ends with 1
_MOST = 10  # starts that do no harm

# Counts its starts, says what it was told to say, and ends with CODE.
_PYTHON = f"""#!/usr/bin/env bash
here=$(dirname "$0")
echo "$*" >> "$here/starts"
[ "$(wc -l < "$here/starts")" -lt {_MANY} ] || exit 1
[ -z "${{SAID:-}}" ] || echo "$SAID" >&2
[ "$CODE" != 137 ] || kill -KILL $$
exit "$CODE"
"""
_SLEEP = """#!/bin/sh
[ "$1" = 0.1 ] || [ "$1" = 0.2 ] || echo "$1" >> "$(dirname "$0")/pauses"
"""


def _launched(place, script, *arguments, **environment):
  """Returns how a launcher ended, and the arguments of each start."""
  commands = place / 'bin'
  commands.mkdir()
  for name, text in (('python', _PYTHON), ('sleep', _SLEEP)):
    (commands / name).write_text(text)
    (commands / name).chmod(0o755)
  (commands / 'srun').symlink_to('python')
  ended = children.run(
    ['bash', _LAUNCH / script, *arguments],
    env={
      'PATH': f'{commands}{os.pathsep}{os.environ["PATH"]}',
      'CODE': '0',
      **environment,
    },
    cpu_s=60,
    cwd=place,
  )
  starts = commands / 'starts'
  return ended, starts.read_text().splitlines() if starts.exists() else []


def _refused(place, script, *arguments, **environment):
  ended, starts = _launched(place, script, *arguments, **environment)
  assert ended.returncode == 2, f'exit code {ended.returncode}'
  assert not starts, f'{len(starts)} starts'
  assert len(ended.stderr.splitlines()) == 1, ended.stderr
  assert not (place / 'ran').exists(), 'a number was run as a command'


_NUMBERS = (
  '0', '-1', '1e3', '', ' 1', '08', '0x10', '1.5', '1;touch ran', '9' * 30,
  'BASH_VERSINFO[$(touch ran)]', 'a[`touch ran`]', '$(touch ran)',
)  # fmt: skip


@attack(quick=False, cases=_NUMBERS)
def a_count_of_processes(place, count):
  """Only a number of processes is one."""
  _refused(place, 'local_processes.sh', count, 'x')


@attack(quick=True)
def a_count_that_is_a_command(place):
  """Arithmetic of bash runs commands in the index of an array."""
  _refused(place, 'local_processes.sh', 'a[$(touch ran)]', 'x')


@attack(quick=False, cases=('MAX_RESTARTS', 'GRACE', 'PAUSE', 'STALLED'))
def a_variable_that_is_a_command(place, name):
  """A run that fails, so that all of them are read."""
  harm = {name: 'a[$(touch ran)]'}
  _refused(place, 'local_processes.sh', '1', 'x', CODE='75', **harm)


@attack(quick=False, cases=('one_machine.sh', 'slurm.sh'))
def another_variable_that_is_a_command(place, script):
  """The numbers of the other launchers."""
  harm = {'PAUSE': 'a[$(touch ran)]', 'PAUSES': 'a[$(touch ran)]'}
  _refused(place, script, 'x', CODE='75', SLURM_JOB_ID='1', **harm)


_SCRIPTS = {
  f'{script}-{code}': (script, arguments, code)
  for script, arguments in (
    ('one_machine.sh', ()),
    ('local_processes.sh', ('1',)),
    ('slurm.sh', ()),
  )
  for code in (75, 76, 134)
  if script != 'slurm.sh' or code != 75
}


@attack(quick=False, cases=_SCRIPTS)
def a_run_that_never_gets_further(place, case):
  """The starts are few, and the pauses between them grow."""
  script, arguments, code = case
  ended, starts = _launched(
    place, script, *arguments, 'x', CODE=str(code), SLURM_JOB_ID='1'
  )
  assert 1 < len(starts) <= _MOST, f'{len(starts)} starts'
  assert ended.returncode == code, f'exit code {ended.returncode}'
  paused = place / 'bin/pauses'
  assert paused.exists(), 'no pause'
  pauses = [int(x) for x in paused.read_text().split()]
  assert len(pauses) == len(starts) - 1
  assert pauses == sorted({*pauses}), f'pauses {pauses}'


_MEMORY = {
  'bad_alloc': (
    "terminate called after throwing an instance of 'std::bad_alloc'"
  ),
  'jax': 'RESOURCE_EXHAUSTED: Out of memory allocating 3600000000 bytes.',
  'malloc': 'fatal: Cannot allocate memory',
}
_ALL = {
  f'{script}-{name}': (script, arguments, said)
  for script, arguments in (
    ('one_machine.sh', ()),
    ('local_processes.sh', ('1',)),
    ('slurm.sh', ()),
  )
  for name, said in _MEMORY.items()
}


@attack(quick=False, cases=_ALL)
def an_abort_for_lack_of_memory(place, case):
  """It would be aborted again; a lost peer would not."""
  script, arguments, said = case
  ended, starts = _launched(
    place, script, *arguments, 'x', CODE='134', SAID=said, SLURM_JOB_ID='1'
  )
  assert len(starts) == 1, f'{len(starts)} starts'
  assert ended.returncode == 134
  assert said in ended.stderr, 'what the run said is lost'
  assert 'memory' in ended.stderr.replace(said, ''), ended.stderr


@attack(quick=False, cases=('one_machine.sh', 'slurm.sh'))
def a_kill_by_the_kernel_is_said(place, script):
  """SIGKILL leaves no words of the run's own."""
  ended, _ = _launched(place, script, 'x', CODE='137', SLURM_JOB_ID='1')
  assert ended.returncode == 137
  assert 'kernel' in ended.stderr
  assert 'memory' in ended.stderr


@attack(quick=False, cases=('one_machine.sh', 'local_processes.sh'))
def arguments_arrive_as_they_are(place, script):
  """Spaces, quotes, globs and commands are text."""
  given = ['a b', "it's", '*', '$(touch ran)', '`touch ran`', '; touch ran']
  count = ['1'] if script == 'local_processes.sh' else []
  ended, (start,) = _launched(place, script, *count, *given)
  assert ended.returncode == 0
  assert start == ' '.join(['-m', 'kd_jax.main', *given])
  assert not (place / 'ran').exists()


@attack(quick=False, cases=(0, 1, 2))
def an_end_that_asks_for_nothing(place, code):
  """Done, a fault and wrong usage are not started again."""
  ended, starts = _launched(place, 'one_machine.sh', 'x', CODE=str(code))
  assert ended.returncode == code
  assert len(starts) == 1


@attack(quick=False)
def a_reader_that_is_gone(place):
  """Whoever reads the launcher's words has left."""
  reading, writing = os.pipe()
  os.close(reading)
  commands = place / 'bin'
  commands.mkdir()
  for name, text in (('python', _PYTHON), ('sleep', _SLEEP)):
    (commands / name).write_text(text)
    (commands / name).chmod(0o755)
  with children.Child(
    ['bash', _LAUNCH / 'one_machine.sh', 'x'],
    env={
      'PATH': f'{commands}{os.pathsep}{os.environ["PATH"]}',
      'CODE': '75',
      'SAID': 'words',
    },
    stdout=subprocess.DEVNULL,
    stderr=writing,
    cpu_s=60,
  ) as child:
    code = child.wait()
  os.close(writing)
  starts = (commands / 'starts').read_text().splitlines()
  assert code == 75, f'exit code {code}'
  assert 1 < len(starts) <= _MOST, f'{len(starts)} starts'
