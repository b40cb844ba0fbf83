"""PyTorch peers: processes that take turns with the configurations.

PyTorch is never imported here. A peer and its workers are stopped while it is
not their turn, so that they prepare nothing during the steps of others.
"""

from collections.abc import Sequence
import contextlib
import importlib.util
import json
import os
import sys
from typing import Any

from etils import epath

from kd_jax import errors
from kd_jax.benchmark import case, cost, pairing, peer

VARIANTS = ('dataloader', 'eager', 'compiled', 'bfloat16')


class Peer(peer.Peer):
  """A PyTorch training loop.

  Attributes:
    ours: The configuration that it trains too.
  """

  def __init__(self, ours: case.Case, given: dict[str, Any], threads: int):
    """Starts the process, and waits until it has compiled and warmed up.

    Args:
      ours: The configuration that it trains too.
      given: The arguments of benchmarks/torch_peer.py; see `pairing.arguments`.
      threads: CPU threads; 0 leaves PyTorch's default.

    Raises:
      UsageError: The process ended instead.
    """
    self.ours = ours
    # Threads that spin while they wait slow each other down on a busy machine.
    waiting = os.environ.get('OMP_WAIT_POLICY', 'PASSIVE')
    environment = {'OMP_WAIT_POLICY': waiting}
    if threads:
      environment['OMP_NUM_THREADS'] = str(threads)
    super().__init__(
      f'PyTorch {given["variant"]}, {ours.label}',
      [sys.executable, str(_script()), json.dumps(given)],
      environment,
    )

  def turn(self, steps: int) -> cost.Turn:
    """Runs `steps` steps, and waits until the device has finished."""
    return cost.Turn(self.ask(steps)['ms'])


def check() -> None:
  """Checks that PyTorch and its training loop are there.

  Raises:
    UsageError: PyTorch is not installed, or this is not a checkout.
  """
  if importlib.util.find_spec('torch') is None:
    raise errors.UsageError(
      '--compare needs PyTorch in this environment: pip install torch'
    )
  _script()


def start(cases: Sequence[case.Case], names: str, threads: int) -> list[Peer]:
  """Starts the peers of each configuration, except those that cannot run here.

  Args:
    cases: The configurations.
    names: Names from `VARIANTS`, with commas between them.
    threads: CPU threads of each peer; 0 leaves PyTorch's default.

  Raises:
    UsageError: A variant is unknown, or the peers do not support a
      configuration.
  """
  chosen = names.split(',')
  for name in chosen:
    if name not in VARIANTS:
      raise errors.unknown('value of --peers:', name, VARIANTS)
  all_arguments = [
    pairing.arguments(entry.config, entry.exp, entry.wanted, entry.label)
    for entry in cases
  ]
  started: list[Peer] = []
  with contextlib.ExitStack() as failing:
    for timed, arguments in zip(cases, all_arguments, strict=True):
      for name in chosen:
        torch_peer = Peer(timed, {**arguments, 'variant': name}, threads)
        failing.callback(torch_peer.close)
        if reason := torch_peer.about.get('left_out'):
          print(f'{torch_peer.label} is left out: {reason}', file=sys.stderr)
          torch_peer.close()
          continue
        _check_sizes(torch_peer)
        print(f'{torch_peer.label}: ready', file=sys.stderr, flush=True)
        started.append(torch_peer)
    failing.pop_all()
  return started


def _check_sizes(other: Peer) -> None:
  """Checks that a peer trains as many parameters as its configuration.

  Raises:
    UsageError: It trains more or fewer.
  """
  timed, about = other.ours, other.about
  for what, peer_count, case_count in (
    ('of networks', about['params'], timed.student_params),
    ('beside them', about['extra_params'], timed.extra_params),
  ):
    if peer_count != case_count:
      raise errors.UsageError(
        f'{other.label} trains {peer_count} parameters {what} and '
        f'{timed.label} {case_count}: they are not the same'
      )


def _script() -> epath.Path:
  root = epath.Path(__file__).parent.parent.parent
  script = root / 'benchmarks' / 'torch_peer.py'
  if not script.exists():
    raise errors.UsageError(f'--compare needs a checkout: there is no {script}')
  return script
