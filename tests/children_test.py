import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest

from tests import children

ROOT = pathlib.Path(__file__).parent.parent
LINES = {'stdout': subprocess.PIPE, 'stderr': subprocess.STDOUT}


def python(code, **options):
  return children.Child([sys.executable, '-c', code], **LINES, **options)


def lives(number):
  """Whether there is such a process, and it has not ended."""
  try:
    text = pathlib.Path(f'/proc/{number}/stat').read_text()
  except OSError:
    return False
  return text.rpartition(')')[2].split()[0] != 'Z'


def test_a_child_that_sleeps_for_ever_is_ended_and_shows_where():
  code = 'import time\ndef dream():\n  time.sleep(1e6)\ndream()'
  with pytest.raises(pytest.fail.Exception) as raised:  # noqa: SIM117
    with python(code, idle_s=4.0) as child:
      child.wait()
  assert 'did nothing for 4 s' in str(raised.value)
  assert 'line 3 in dream' in str(raised.value)
  assert not lives(child.pid)


def test_a_child_that_uses_more_than_its_cpu_seconds_is_ended():
  with pytest.raises(pytest.fail.Exception, match=r'0\.5 CPU seconds'):  # noqa: SIM117
    with python('while True: pass', cpu_s=0.5) as child:
      child.communicate()
  assert not lives(child.pid)


def test_a_child_that_gets_little_of_the_cpu_is_waited_for():
  code = (
    'import time\nend = time.monotonic() + 12\n'
    'while time.monotonic() < end:\n'
    '  began = time.process_time()\n'
    '  while time.process_time() < began + 0.01: pass\n'
    '  time.sleep(0.09)'
  )
  with python(code, idle_s=4.0) as child:
    assert child.wait() == 0


# It starts a process in a session of its own, and ends or goes on.
STARTS = 'setsid sleep 1000 > /dev/null & echo $!; [ {} = ends ] || sleep 1000'


@pytest.mark.parametrize('error', [None, AssertionError, KeyboardInterrupt])
@pytest.mark.parametrize('what', ['ends', 'goes on'])
def test_all_that_a_child_started_ends_with_its_block(error, what):
  command = ['bash', '-c', STARTS.format(what.split()[0])]
  try:
    with children.Child(command, **LINES) as child:
      number = int(child.stdout.readline())
      children.until(lambda: child.poll() is not None or what == 'goes on')
      assert lives(number)
      if error:
        raise error
  except (AssertionError, KeyboardInterrupt) as raised:
    assert type(raised) is error  # noqa: PT017
  assert not lives(number)
  assert not lives(child.pid)


def test_a_child_ends_with_the_process_that_started_it():
  code = (
    'import subprocess\nfrom tests import children\n'
    'child = children.Child(["sleep", "1000"])\n'
    'print(child.pid, flush=True)\nchild.wait()'
  )
  with python(code, cwd=ROOT) as starter:
    number = int(starter.stdout.readline())
    assert lives(number)
    starter.send_signal(signal.SIGKILL)
    children.until(lambda: not lives(number))


LEAKS = """
import subprocess
import sys
from tests.children import no_process_is_left

def test_clean_before():
  subprocess.run(['true'], check=True)

def test_leaks():
  global left
  code = 'import time; print(flush=True); time.sleep(1000)'
  command = [sys.executable, '-c', code]
  left = subprocess.Popen(command, stdout=subprocess.PIPE)
  left.stdout.readline()
  print('number', left.pid)

def test_clean_after():
  pass
"""


def test_a_child_that_is_left_fails_the_test_that_left_it(tmp_path):
  (tmp_path / 'leaks_test.py').write_text(LEAKS)
  (tmp_path / 'pytest.ini').write_text(
    '[pytest]\npython_files = *_test.py\nfilterwarnings = error\n'
  )
  command = [sys.executable, '-m', 'pytest', '-p', 'no:cacheprovider', '-rP']
  environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
  found = children.run([*command, str(tmp_path)], env=environment)
  assert '3 passed, 1 error' in found.stdout
  assert 'ERROR at teardown of test_leaks' in found.stdout
  assert 'left processes behind' in found.stdout
  assert 'sleep(1000)' in found.stdout.partition('left processes behind: ')[2]
  number = found.stdout.partition('number ')[2].split()[0]
  assert not lives(number)


def test_a_process_that_ends_during_a_look_at_all_is_no_error(
  tmp_path, monkeypatch
):
  (tmp_path / '7' / 'stat').mkdir(parents=True)  # reading it is an error
  ours, theirs = f'9 (a b) S {os.getpid()} 9', '10 (c) S 1 10'
  for number, text in (('9', ours), ('10', theirs)):
    (tmp_path / number).mkdir()
    (tmp_path / number / 'stat').write_text(text)
    (tmp_path / number / 'cmdline').write_bytes(b'sleep\x009\x00')
  monkeypatch.setattr(children, '_PROC', tmp_path)
  with python('input()', stdin=subprocess.PIPE):
    assert children.left() == {9: 'sleep 9 '}


def test_no_other_file_starts_processes_by_itself():
  own = {'children.py', 'children_test.py'}
  by_itself = re.compile(r'subprocess\.(Popen|run|call|check_\w+)\(')
  files = [path for path in ROOT.glob('tests/**/*.py') if path.name not in own]
  assert len(files) > 50
  found = [path.name for path in files if by_itself.search(path.read_text())]
  assert found == []
