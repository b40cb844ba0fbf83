"""PyTorch peers: processes of their own that take turns with ours.

PyTorch is never imported here. A peer stands still, its workers too, while it
is not its turn, so that nothing is prepared beside the others' steps.
"""

import contextlib
import importlib.util
import json
import os
import sys
from typing import Any

from etils import epath

from kd_jax import errors, peer
from kd_jax.benchmark import case, cost

VARIANTS = ('dataloader', 'eager', 'compiled', 'bfloat16')


class Peer(peer.Peer):
  """One PyTorch loop."""

  def __init__(self, given: dict[str, Any], threads: int):
    """Starts it and waits until it has compiled and warmed up."""
    # Threads that wait actively slow each other down where others work beside.
    waiting = os.environ.get('OMP_WAIT_POLICY', 'PASSIVE')
    environment = {'OMP_WAIT_POLICY': waiting}
    if threads:
      environment['OMP_NUM_THREADS'] = str(threads)
    super().__init__(
      f'PyTorch {given["variant"]}',
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


def start(first: case.Case, names: str, threads: int) -> list[Peer]:
  """The peers that can run here, for the first configuration.

  Args:
    first: plain KD.
    names: of `VARIANTS`, with commas between.
    threads: of the CPU, for each; 0 is as PyTorch says.

  Raises:
    UsageError: for another method, for an unknown variant.
  """
  given = _arguments(first)
  chosen = names.split(',')
  for name in chosen:
    if name not in VARIANTS:
      raise errors.unknown('value of --peers:', name, VARIANTS)
  started: list[Peer] = []
  with contextlib.ExitStack() as failing:
    for name in chosen:
      other = Peer({**given, 'variant': name}, threads)
      failing.callback(other.close)
      if why := other.about.get('left_out'):
        print(f'{other.label} is left out: {why}', file=sys.stderr)
        other.close()
        continue
      if other.about['params'] != first.kept_params:
        raise errors.UsageError(
          f'{other.label} has {other.about["params"]} parameters and '
          f'{first.label} {first.kept_params}: they are not the same network'
        )
      print(f'{other.label}: ready', file=sys.stderr, flush=True)
      started.append(other)
    failing.pop_all()
  return started


def _arguments(first: case.Case) -> dict[str, Any]:
  """What a peer must know to train what `first` trains."""
  config, wanted = first.config, first.wanted
  if config.method != 'kd' or first.exp.method.standardize:
    raise errors.UsageError(
      f'--compare: the PyTorch peers train plain KD, and the first '
      f'configuration is {first.label}; begin with kd'
    )
  networks = (config.student, config.teacher)
  if any(network.args.to_dict() for network in networks):
    raise errors.UsageError(
      f'--compare: the networks of {first.label} have arguments, which the '
      'PyTorch peers do not know; give --student and --teacher'
    )
  rate = config.optimizer.learning_rate
  return {
    'student': config.student.name,
    'teacher': config.teacher.name,
    'classes': wanted.classes,
    'image_size': wanted.image_size,
    'images': wanted.images,
    'batch_size': wanted.batch_size,
    'padding': min(config.data.crop_padding, wanted.image_size - 1),
    'flip': config.data.flip,
    'mean': case.MEAN,
    'std': case.STD,
    'learning_rate': rate if isinstance(rate, float) else rate.value,
    'momentum': config.optimizer.momentum,
    'weight_decay': config.optimizer.weight_decay,
    'nesterov': config.optimizer.nesterov,
    'temperature': first.exp.method.temperature,
    'ce': config.weights.ce,
    'kd': config.weights.kd,
    'workers': min(8, os.cpu_count() or 1),
  }


def _script() -> epath.Path:
  root = epath.Path(__file__).parent.parent.parent
  script = root / 'benchmarks' / 'torch_peer.py'
  if not script.exists():
    raise errors.UsageError(f'--compare needs a checkout: there is no {script}')
  return script
