"""Closed pipes, missing streams, signals and kills at moments that matter."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys

from kd_jax.runtime import distributed, screen
from tests import children
from tests.attacks import attack
from tests.training.end_to_end_test import leaves

# Eight steps, each one saved; no teacher.
_RUN = (
  '--config=tfd:digits', '--config.data.train_size=40',
  '--config.batch_size=20', '--config.epochs=4',
  '--config.checkpoint_every=0.5', '--config.checkpoint_seconds=0.0',
  '--config.student.args.widths=(4,4,8,16)', '--config.baseline=off',
  '--workdir=run',
)  # fmt: skip


def _environment(place, **more):
  return {
    **os.environ,
    'JAX_PLATFORMS': 'cpu',
    'JAX_NUM_CPU_DEVICES': '1',
    'KD_JAX_CACHE': str(place / 'cache'),
    **more,
  }


def _command(verb=('train', *_RUN)):
  return [sys.executable, '-m', 'kd_jax', *verb]


def _code(place, verb=('train', *_RUN), **streams):
  """Returns the exit code of a command with these streams."""
  with children.Child(
    _command(verb), cwd=place, env=_environment(place), **streams
  ) as child:
    return child.wait()


def _ends(place, **streams):
  """Raises unless a training ends with its result and exit code 0."""
  code = _code(place, **streams)
  assert code == 0, f'exit code {code}'
  assert json.loads((place / 'run/result.json').read_text())['steps'] == 8


@contextlib.contextmanager
def _unread():
  """Returns the end for writing of a pipe that has no reader."""
  reading, writing = os.pipe()
  os.close(reading)
  yield writing
  os.close(writing)


@attack(quick=False)
def stdout_without_a_reader(place):
  """A training is more than its words."""
  with _unread() as pipe:
    _ends(place, stdout=pipe)


@attack(quick=False)
def stderr_without_a_reader(place):
  """Warnings and logs are words too."""
  with _unread() as pipe:
    _ends(place, stdout=subprocess.DEVNULL, stderr=pipe)


@attack(quick=False)
def both_without_a_reader(place):
  """What `2>&1 | head` leaves."""
  with _unread() as pipe:
    _ends(place, stdout=pipe, stderr=pipe)


@attack(quick=False)
def a_reader_of_one_line(place):
  """`kd-jax train | head -1`."""
  with children.Child(
    _command(), cwd=place, env=_environment(place), stdout=subprocess.PIPE
  ) as child:
    assert child.stdout.readline()
    child.stdout.close()
    code = child.wait()
  assert code == 0, f'exit code {code}'
  assert (place / 'run/result.json').exists()


@attack(quick=False)
def a_terminal_that_is_gone(place):
  """A window that was closed under `nohup`."""
  ours, theirs = os.openpty()
  os.close(ours)
  try:
    _ends(place, stdout=theirs, stderr=theirs)
  finally:
    os.close(theirs)


@attack(quick=False)
def a_full_device(place):
  """`> FILE` on a disk that is full."""
  with open('/dev/full', 'wb') as full:
    _ends(place, stdout=full, stderr=full)


@attack(quick=False, cases={'stdin': (0,), 'stdout': (1,), 'all': (0, 1, 2)})
def streams_that_are_missing(place, numbers):
  """`<&- >&- 2>&-`."""

  def close():
    for number in numbers:
      os.close(number)

  _ends(place, preexec_fn=close)


@attack(quick=False, cases=(('list', 'methods'), ('train', '--help')))
def words_for_a_reader_that_has_left(place, verb):
  """A command that only speaks ends quietly."""
  with (
    _unread() as pipe,
    (place / 'said').open('wb') as said,
  ):
    code = _code(place, verb, stdout=pipe, stderr=said)
  assert code == 0, f'exit code {code}'
  text = (place / 'said').read_text()
  assert 'Traceback' not in text
  assert 'BrokenPipe' not in text


@attack(quick=False)
def a_mistake_that_nobody_reads(place):
  """The exit code is there without the line."""
  with _unread() as pipe:
    code = _code(place, ('train', '--config=fpdd'), stdout=pipe, stderr=pipe)
  assert code == 2, f'exit code {code}'


class _Refusing(io.StringIO):
  def __init__(self, error):
    super().__init__()
    self._error = error

  def write(self, text):
    raise self._error


_ERRORS = {
  'epipe': BrokenPipeError(32, 'Broken pipe'),
  'enospc': OSError(28, 'No space left on device'),
  'eio': OSError(5, 'Input/output error'),
}


@attack(quick=True, cases=_ERRORS)
def a_stream_that_refuses(place, error):
  """Lines, progress and notices of a run."""
  with contextlib.redirect_stdout(_Refusing(error)):
    shown = screen.Screen('seed 0')
    shown.line('a line')
    shown.progress('step 1')
    distributed.say('a notice')


@attack(quick=True, cases={'closed': 'closed', 'none': None})
def a_stream_that_is_no_more(place, which):
  """A program that embeds a run may have closed its stdout."""
  gone = io.StringIO()
  gone.close()
  with contextlib.redirect_stdout(gone if which else None):
    shown = screen.Screen()
    shown.line('a line')
    distributed.say('a notice')


def _stopped(place, number, when):
  """Starts a run, sends it a signal, and returns its exit code."""
  with children.Child(
    _command(),
    cwd=place,
    env=_environment(place),
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  ) as child:
    children.until(lambda: list(place.glob(when)), child)
    child.send_signal(number)
    return child.wait()


_MOMENTS = {
  'claimed': 'run/config.json',
  'first-checkpoint': 'run/checkpoints/[0-9]*',
  'metrics': 'run/metrics.jsonl',
  'a-later-checkpoint': 'run/checkpoints/[3-9]*',
}


@attack(quick=False, cases=_MOMENTS)
def a_kill(place, when):
  """The run goes on, and ends with the same bits."""
  _stopped(place, signal.SIGKILL, when)
  _ends(place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
  _, again = leaves(place / 'run/student')
  (place / 'other').mkdir()
  _ends(place / 'other', stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
  _, want = leaves(place / 'other/run/student')
  assert again.keys() == want.keys()
  assert all((again[name] == want[name]).all() for name in want)


@attack(quick=False, cases={'sigterm': (15, 75), 'sigint': (2, 130)})
def a_signal_to_stop(place, case):
  """It saves, ends with its code, and goes on."""
  number, wanted = case
  code = _stopped(place, number, 'run/metrics.jsonl')
  assert code == wanted, f'exit code {code}'
  _ends(place, stdout=subprocess.DEVNULL)


@attack(quick=False)
def ctrl_c_with_nobody_to_tell(place):
  """The notice of the signal's handler finds no reader."""
  with (
    _unread() as pipe,
    children.Child(
      _command(),
      cwd=place,
      env=_environment(place),
      stdout=pipe,
      stderr=pipe,
    ) as child,
  ):
    children.until((place / 'run/metrics.jsonl').exists, child)
    child.send_signal(signal.SIGINT)
    code = child.wait()
  assert code == 130, f'exit code {code}'
