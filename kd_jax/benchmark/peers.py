"""PyTorch peers: processes of their own that take turns with ours.

PyTorch is never imported here. A peer stands still, its workers too, while it
is not its turn, so that nothing is prepared beside the others' steps.
"""

from collections.abc import Sequence
import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
from typing import Any

from etils import epath

from kd_jax import errors
from kd_jax.benchmark import case, cost, pairing

VARIANTS = ('dataloader', 'eager', 'compiled', 'bfloat16')


class Peer:
  """One PyTorch loop.

  Attributes:
    label: how it is called.
    ours: the configuration that it trains too.
    about: what it says of itself; 'left_out' where it cannot run here.
  """

  def __init__(self, ours: case.Case, given: dict[str, Any], threads: int):
    """Starts it and waits until it has compiled and warmed up."""
    self.label = f'PyTorch {given["variant"]}, {ours.label}'
    self.ours = ours
    # Threads that wait actively slow each other down where others work beside.
    environment = {'OMP_WAIT_POLICY': 'PASSIVE', **os.environ}
    if threads:
      environment['OMP_NUM_THREADS'] = str(threads)
    self._process = subprocess.Popen(
      [sys.executable, str(_script()), json.dumps(given)],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      env=environment,
      start_new_session=True,
    )
    self.about = self._answer()
    self._signal(signal.SIGSTOP)

  def turn(self, steps: int) -> cost.Turn:
    """`steps` steps, until its device is done."""
    self._signal(signal.SIGCONT)
    assert self._process.stdin is not None
    self._process.stdin.write(f'{steps}\n')
    self._process.stdin.flush()
    ms = self._answer()['ms']
    self._signal(signal.SIGSTOP)
    return cost.Turn(ms)

  def close(self) -> None:
    """Ends it with its workers."""
    self._signal(signal.SIGKILL)
    self._process.communicate()

  def _signal(self, number: signal.Signals) -> None:
    if self._process.poll() is None:  # else its number may be another's
      os.killpg(self._process.pid, number)

  def _answer(self) -> dict[str, Any]:
    assert self._process.stdout is not None
    line = self._process.stdout.readline()
    if not line:
      raise errors.UsageError(
        f'{self.label} ended with code {self._process.wait()}; its own words '
        'stand above'
      )
    return json.loads(line)


def check() -> None:
  """Raises UsageError where PyTorch or its loop is not installed."""
  if importlib.util.find_spec('torch') is None:
    raise errors.UsageError(
      '--compare needs PyTorch in this environment: pip install torch'
    )
  _script()


def start(cases: Sequence[case.Case], names: str, threads: int) -> list[Peer]:
  """The peers that can run here, for each configuration.

  Args:
    cases: the configurations.
    names: of `VARIANTS`, with commas between.
    threads: of the CPU, for each; 0 is as PyTorch says.

  Raises:
    UsageError: for what the peers do not know, for an unknown variant.
  """
  chosen = names.split(',')
  for name in chosen:
    if name not in VARIANTS:
      raise errors.unknown('value of --peers:', name, VARIANTS)
  given = [pairing.arguments(c.config, c.exp, c.wanted, c.label) for c in cases]
  started: list[Peer] = []
  with contextlib.ExitStack() as failing:
    for ours, own in zip(cases, given, strict=True):
      for name in chosen:
        peer = Peer(ours, {**own, 'variant': name}, threads)
        failing.callback(peer.close)
        if why := peer.about.get('left_out'):
          print(f'{peer.label} is left out: {why}', file=sys.stderr)
          peer.close()
          continue
        _check_sizes(peer)
        print(f'{peer.label}: ready', file=sys.stderr, flush=True)
        started.append(peer)
    failing.pop_all()
  return started


def _check_sizes(peer: Peer) -> None:
  """Raises UsageError where it trains more or fewer parameters than ours."""
  ours, about = peer.ours, peer.about
  for what, theirs, own in (
    ('of networks', about['params'], ours.student_params),
    ('beside them', about['extra_params'], ours.extra_params),
  ):
    if theirs != own:
      raise errors.UsageError(
        f'{peer.label} trains {theirs} parameters {what} and {ours.label} '
        f'{own}: they are not the same'
      )


def _script() -> epath.Path:
  root = epath.Path(__file__).parent.parent.parent
  script = root / 'benchmarks' / 'torch_peer.py'
  if not script.exists():
    raise errors.UsageError(f'--compare needs a checkout: there is no {script}')
  return script
