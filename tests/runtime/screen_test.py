"""A terminal has one line of progress; a file has a line a minute."""

import fcntl
import os
import pty
import re
import struct
import sys
import termios
import time

import pytest

from kd_jax.runtime import logging, run_dir, screen
from tests import children
from tests.cli import train_test

# Long lines of progress, drawn whenever they change, around two other lines.
RUN = """
from kd_jax.runtime import screen
screen.REDRAWN_S = -1.0
shown = screen.Screen('seed 0')
with shown.watched():
  for i in range(30):
    shown.progress(f'step {i}/30 | ' + 'total 1.5 = ce 1 (1) + ' * 20)
    if i in (10, 20):
      shown.line(f'line {i}')
shown.line('the end')
"""


def rows(content, width):
  """What a terminal of that width shows after all these characters.

  A character after the last column goes to the next row.
  """
  shown, row, column = [''], 0, 0
  for part in re.findall(r'\x1b\[K|\r|\n|[^\x1b\r\n]', content):
    if part == '\r':
      column = 0
    elif part == '\x1b[K':
      shown[row] = shown[row][:column]
    elif part == '\n':
      row += 1
      shown.append('')
    else:
      if column == width:
        shown.append('')
        row, column = row + 1, 0
      shown[row] = shown[row][:column] + part
      column += 1
  return shown


def in_terminal(width, code):
  """The characters that a program writes to a terminal of that width."""
  ours, theirs = pty.openpty()
  size = struct.pack('HHHH', 40, width, 0, 0)
  fcntl.ioctl(theirs, termios.TIOCSWINSZ, size)
  command = [sys.executable, '-c', code]
  process = children.Child(
    command, env=train_test.environment(), stdout=theirs, text=False
  )
  os.close(theirs)
  content = b''
  with process:
    try:
      while part := os.read(ours, 4096):
        content += part
    except OSError:  # how Linux says that the other end is closed
      pass
    assert process.wait() == 0
  os.close(ours)
  return content.decode()


@pytest.mark.parametrize('width', [80, 140])
def test_the_progress_stays_on_one_line_of_a_terminal(width):
  content = in_terminal(width, RUN)
  assert rows(content, width) == [
    '[seed 0] line 10',
    '[seed 0] line 20',
    '[seed 0] the end',
    '',
  ]
  # Before the end the last row is the progress, as wide as it may be.
  cut = content.index('[seed 0] line 20')
  *above, progress = rows(content[:cut], width)
  assert above == ['[seed 0] line 10']
  assert progress == ''
  drawn = re.findall(r'\r\x1b\[K(\[seed 0\] step [^\r]*)', content)
  assert len(drawn) == 30
  assert {len(line) for line in drawn} == {width - 1}


def test_what_fits_is_not_cut():
  assert screen.fitted('x' * 79, 80) == 'x' * 79
  assert screen.fitted('x' * 80, 80) == 'x' * 76 + '...'
  assert screen.fitted('xyz', 2) == '.'


def test_a_silent_file_gets_the_progress_as_a_line(capsys, monkeypatch):
  monkeypatch.setattr(screen, 'SILENCE_S', 0.05)
  shown = screen.Screen()
  shown.progress('step 1/9')
  with shown.watched():
    said = []
    children.until(lambda: said.append(capsys.readouterr().out) or said[-1])
    shown.progress('step 2/9')
    children.until(
      lambda: said.append(capsys.readouterr().out) or '2/9' in said[-1]
    )
  assert set(''.join(said).splitlines()) == {'step 1/9', 'step 2/9'}
  time.sleep(0.2)
  assert capsys.readouterr().out == ''  # nothing more after the run


def test_runs_that_share_a_terminal_replace_one_anothers_progress(
  capsys, monkeypatch
):
  monkeypatch.setattr(screen, '_is_terminal', lambda: True)
  line = screen.Line()
  one, other = screen.Screen('seed 0', line), screen.Screen('seed 1', line)
  one.progress('step 1/9')
  other.progress('step 1/9')  # too soon to be drawn
  other.line('epoch 1')
  shown = capsys.readouterr().out
  assert rows(shown, 80) == ['[seed 1] epoch 1', '']
  assert shown.count('step') == 1


def test_a_file_gets_no_progress_within_a_minute(capsys):
  shown = screen.Screen()
  with shown.watched():
    for step in range(100):
      shown.progress(f'step {step}')
    shown.line('said')
  assert capsys.readouterr().out == 'said\n'


def test_the_log_has_the_lines_that_the_screen_does_not_show(tmp_path, capsys):
  reporter = logging.Reporter(run_dir.Folder(tmp_path))
  reporter.line('epoch 2', important=False)
  reporter.line('epoch 3')
  assert capsys.readouterr().out == 'epoch 3\n'
  log = (tmp_path / 'log.txt').read_text().splitlines()
  assert [line.split(' ', 2)[2] for line in log] == ['epoch 2', 'epoch 3']


def test_a_pipe_without_a_reader_is_given_up_and_no_fault_at_the_end():
  reading, writing = os.pipe()
  os.close(reading)
  code = (
    'from kd_jax.runtime import screen\n'
    'for _ in range(9999): screen.show("a line")\n'
    'screen.settle()'
  )
  with children.Child([sys.executable, '-c', code], stdout=writing) as child:
    os.close(writing)
    assert child.wait() == 0


def test_streams_that_are_missing_do_not_give_their_numbers_to_files():
  code = (
    'from kd_jax.runtime import screen\n'
    'screen.open_missing()\n'
    'assert open("/dev/zero").fileno() > 2\n'
    'print("a line", flush=True)\n'
    'screen.settle()'
  )
  closed = 'exec "$0" -c "$1" <&- >&- 2>&-'
  command = ['bash', '-c', closed, sys.executable, code]
  with children.Child(command) as child:
    assert child.wait() == 0
