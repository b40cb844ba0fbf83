import os
import signal
import subprocess
import sys
import time

import pytest

from kd_jax import errors, peer

# Says hello, then how often its thread counted between two lines.
COUNTS = """
import json, sys, threading, time
count = 0
def counting():
  global count
  while True:
    count += 1
    time.sleep(0.001)
threading.Thread(target=counting, daemon=True).start()
print(json.dumps({'what': 'counts'}), flush=True)
for line in sys.stdin:
  before = count
  time.sleep(float(line))
  print(json.dumps({'before': before, 'after': count}), flush=True)
"""


def test_a_peer_stands_still_between_its_turns():
  one = peer.Peer('counter', [sys.executable, '-c', COUNTS])
  try:
    assert one.about == {'what': 'counts'}
    first = one.ask(0.05)
    assert first['after'] > first['before']
    time.sleep(0.3)  # 300 counts, if it went on
    assert one.ask(0)['before'] < first['after'] + 100
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
    'import contextlib, sys, time\nfrom kd_jax import peer\n'
    'with contextlib.closing(peer.Peer("idle", [sys.executable, "-c", '
    "'import os; print(os.getpid(), flush=True); input()'])) as one:\n"
    '  print(one.about, flush=True)\n'
    '  time.sleep(60)'
  )
  with subprocess.Popen(
    [sys.executable, '-c', holds], stdout=subprocess.PIPE, text=True
  ) as command:
    assert command.stdout is not None
    number = int(command.stdout.readline())
    os.kill(number, 0)  # it is there
    command.terminate()
    assert command.wait(20) == 128 + signal.SIGTERM
  with pytest.raises(ProcessLookupError):
    os.kill(number, 0)


def test_a_peer_that_ends_says_so():
  with pytest.raises(errors.UsageError, match='ends early ended with code 3'):
    peer.Peer('ends early', [sys.executable, '-c', 'raise SystemExit(3)'])
