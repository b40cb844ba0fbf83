"""PyTorch peers: processes of their own that take turns with ours.

PyTorch is never imported here. A peer stands still, its workers too, while it
is not its turn, so that nothing is prepared beside the others' steps.
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
  """One PyTorch loop.

  Attributes:
    ours: the configuration that it trains too.
  """

  def __init__(self, ours: case.Case, given: dict[str, Any], threads: int):
    """Starts it and waits until it has compiled and warmed up."""
    self.ours = ours
    # Threads that wait actively slow each other down where others work beside.
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
    """`steps` steps, until its device is done."""
    return cost.Turn(self.ask(steps)['ms'])


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
        other = Peer(ours, {**own, 'variant': name}, threads)
        failing.callback(other.close)
        if why := other.about.get('left_out'):
          print(f'{other.label} is left out: {why}', file=sys.stderr)
          other.close()
          continue
        _check_sizes(other)
        print(f'{other.label}: ready', file=sys.stderr, flush=True)
        started.append(other)
    failing.pop_all()
  return started


def _check_sizes(other: Peer) -> None:
  """Raises UsageError where it trains more or fewer parameters than ours."""
  ours, about = other.ours, other.about
  for what, theirs, own in (
    ('of networks', about['params'], ours.student_params),
    ('beside them', about['extra_params'], ours.extra_params),
  ):
    if theirs != own:
      raise errors.UsageError(
        f'{other.label} trains {theirs} parameters {what} and {ours.label} '
        f'{own}: they are not the same'
      )


def _script() -> epath.Path:
  root = epath.Path(__file__).parent.parent.parent
  script = root / 'benchmarks' / 'torch_peer.py'
  if not script.exists():
    raise errors.UsageError(f'--compare needs a checkout: there is no {script}')
  return script
