import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from kd_jax import errors
from kd_jax.benchmark import peer
from tests import children

# Says who it is; at each line, that its thread has gone on working.
WORKS = """
import json, os, sys, threading
count = 0
def working():
  global count
  while True:
    count += 1
threading.Thread(target=working, daemon=True).start()
print(json.dumps({'number': os.getpid()}), flush=True)
for line in sys.stdin:
  before = count
  while count == before:
    pass
  print(json.dumps({'worked': count > before}), flush=True)
"""


def state(number):
  """The letter of a process's state: T where it is stopped."""
  text = pathlib.Path(f'/proc/{number}/stat').read_text()
  return text.rpartition(')')[2].split()[0]


def test_a_peer_stands_still_between_its_turns():
  one = peer.Peer('worker', [sys.executable, '-c', WORKS])
  try:
    number = one.about['number']
    for line in range(2):
      children.until(lambda: state(number) == 'T')
      before = one.cpu_s()
      time.sleep(0.3)
      assert one.cpu_s() == before
      assert one.ask(line) == {'worked': True}
  finally:
    one.close()


def test_the_cpu_time_of_a_peer_grows_with_its_work():
  burns = (
    'import sys, time\nprint("{}", flush=True)\nfor line in sys.stdin:\n'
    '  end = time.process_time() + float(line)\n'
    '  while time.process_time() < end: pass\n'
    '  print("{}", flush=True)'
  )
  one = peer.Peer('burner', [sys.executable, '-c', burns])
  try:
    before = one.cpu_s()
    one.ask(0.2)
    assert 0.15 < one.cpu_s() - before < 0.5
  finally:
    one.close()


def test_a_peer_does_not_outlive_a_command_that_is_told_to_end():
  holds = (
    'import contextlib, sys, time\nfrom kd_jax.benchmark import peer\n'
    'with contextlib.closing(peer.Peer("idle", [sys.executable, "-c", '
    "'import os; print(os.getpid(), flush=True); input()'])) as one:\n"
    '  print(one.about, flush=True)\n'
    '  time.sleep(1e6)'
  )
  with children.Child(
    [sys.executable, '-c', holds], stdout=subprocess.PIPE
  ) as command:
    number = int(command.stdout.readline())
    os.kill(number, 0)  # it is there
    command.terminate()
    assert command.wait() == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
      os.kill(number, 0)


def test_a_peer_that_ends_says_so():
  with pytest.raises(errors.UsageError, match='ends early ended with code 3'):
    peer.Peer('ends early', [sys.executable, '-c', 'raise SystemExit(3)'])
