"""PyTorch peers: processes of their own that take turns with ours.

PyTorch is never imported here. A peer stands still, its workers too, while it
is not its turn, so that nothing is prepared beside the others' steps.
"""

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
from kd_jax.benchmark import case, cost

VARIANTS = ('dataloader', 'eager', 'compiled', 'bfloat16')


class Peer:
  """One PyTorch loop.

  Attributes:
    label: how it is called.
    about: what it says of itself; 'left_out' where it cannot run here.
  """

  def __init__(self, given: dict[str, Any], threads: int):
    """Starts it and waits until it has compiled and warmed up."""
    self.label = f'PyTorch {given["variant"]}'
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
      peer = Peer({**given, 'variant': name}, threads)
      failing.callback(peer.close)
      if why := peer.about.get('left_out'):
        print(f'{peer.label} is left out: {why}', file=sys.stderr)
        peer.close()
        continue
      if peer.about['params'] != first.kept_params:
        raise errors.UsageError(
          f'{peer.label} has {peer.about["params"]} parameters and '
          f'{first.label} {first.kept_params}: they are not the same network'
        )
      print(f'{peer.label}: ready', file=sys.stderr, flush=True)
      started.append(peer)
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
