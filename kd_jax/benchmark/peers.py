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
import jax.numpy as jnp
from ml_collections import ConfigDict

from kd_jax import config as config_lib
from kd_jax import errors, optim, step
from kd_jax.benchmark import case, cost
from kd_jax.methods import base

VARIANTS = ('dataloader', 'eager', 'compiled', 'bfloat16')
# The methods that the peers train, each with the arguments they know; any
# other argument must be at its default.
METHODS: dict[str, tuple[str, ...]] = {
  'crd': (
    'contrast_temperature', 'momentum', 'negatives', 'temperature', 'width'
  ),
  'ffsd': ('common_students', 'taps', 'temperature'),
  'fpd': ('se_reduction', 'taps', 'temperature', 'width'),
  'kd': ('temperature',),
  'ofd': ('stages', 'temperature'),
  'pics': ('factor', 'projectors', 'taps', 'temperature'),
}  # fmt: skip
_NETWORK = ('batch_norm', 'stem', 'widths')  # arguments, likewise
# What the data or the run decide, not `config.method_args`.
_FACTS = ('bn_group_size', 'dtype', 'num_classes', 'train_labels')
# What the peers have only one way of; other values are refused.
_PLAIN = (
  'accumulate_steps', 'bn_group_size', 'optimizer.clip_norm', 'phases',
  'trainable',
)  # fmt: skip


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
  given = [arguments(c.config, c.exp, c.wanted, c.label) for c in cases]
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


def arguments(
  config: ConfigDict, exp: step.Experiment, wanted: case.Wanted, label: str
) -> dict[str, Any]:
  """What a peer must know to train what a configuration trains, as JSON has it.

  Weights and learning rates are those of the first step.

  Args:
    config: the configuration.
    exp: its first phase's.
    wanted: what was asked for.
    label: how the configuration is called.

  Raises:
    UsageError: for what the peers do not know.
  """
  name, method = config.method, exp.method
  if name not in METHODS:
    raise errors.UsageError(
      f'--compare: the PyTorch peers do not train {name} ({label}); they train '
      f'{", ".join(METHODS)}'
    )
  unknown = {
    f'method_args.{field}': f'of {name} they know {", ".join(METHODS[name])}'
    for field in _changed(method)
    if field not in (*METHODS[name], *_FACTS)
  }
  default = config_lib.default()
  unknown |= {
    key: 'they know its default'
    for key in _PLAIN
    if _at(config, key) != _at(default, key)
  }
  networks = {
    name: _network(config[name], unknown, name)
    for name in ('student', 'teacher')
  }
  rules = _rules(config, wanted, unknown)
  for key, known in unknown.items():
    raise errors.UsageError(
      f'--compare: the PyTorch peers do not know config.{key}='
      f'{_shown(config, key)} ({label}); {known}'
    )
  crop_flip = case.crop_flip(config, wanted.image_size)
  return {
    **networks,
    'students': list(exp.students),
    'method': name,
    'method_args': {key: getattr(method, key) for key in METHODS[name]},
    'weights': {
      term: float(weight(jnp.int32(0))) for term, weight in exp.weights.items()
    },
    'rules': rules,
    'classes': wanted.classes,
    'image_size': wanted.image_size,
    'images': wanted.images,
    'batch_size': wanted.batch_size,
    'padding': crop_flip.padding,
    'padding_mode': crop_flip.mode,
    'flip': crop_flip.flip,
    'mean': case.MEAN,
    'std': case.STD,
    'workers': min(8, os.cpu_count() or 1),
  }


def _changed(method: base.Method) -> list[str]:
  """The fields of a method that are not at their default."""
  fields = type(method).__dataclass_fields__
  return sorted(
    name
    for name in base.fields(type(method)) - set(_FACTS)
    if getattr(method, name) != fields[name].default
  )


def _network(
  network: ConfigDict, unknown: dict[str, str], role: str
) -> dict[str, Any] | None:
  """A network's name and arguments; None where there is none."""
  if not network.name:
    return None
  args = network.args.to_dict()
  for key, value in args.items():
    # A student's statistics are those of the batch in any case but one.
    if key not in _NETWORK or (key == 'batch_norm' and role == 'student'):
      known = [k for k in _NETWORK if k != 'batch_norm' or role == 'teacher']
      unknown[f'{role}.args.{key}'] = f'of it they know {", ".join(known)}'
    if key == 'batch_norm' and value == 'running':
      args[key] = 'auto'  # the same for a teacher
  return {'name': network.name, **args}


def _rules(
  config: ConfigDict, wanted: case.Wanted, unknown: dict[str, str]
) -> list[tuple[str, dict[str, Any]]]:
  """The optimizers by parameters' paths, as torch calls their arguments."""
  common = config.optimizer.to_dict()
  found = []
  for expression, changes in (*common['rules'], ('.*', {})):
    fields = {**common, **dict(changes)}
    if fields['name'] not in ('sgd', 'adam'):
      unknown['optimizer.name'] = 'they know sgd and adam'
    rate = optim.schedule(
      fields['learning_rate'],
      wanted.images // wanted.batch_size,
      config.epochs,
    )
    own = {
      key: fields[key]
      for key in ('name', 'momentum', 'nesterov', 'weight_decay')
    }
    found.append((expression, {**own, 'lr': float(rate(jnp.int32(0)))}))
  return found


def _at(config: ConfigDict, path: str) -> Any:
  """The value at 'optimizer.clip_norm' and the like."""
  for key in path.split('.'):
    config = config[key]
  return config.to_dict() if isinstance(config, ConfigDict) else config


def _shown(config: ConfigDict, path: str) -> str:
  return repr(_at(config, path))


def _script() -> epath.Path:
  root = epath.Path(__file__).parent.parent.parent
  script = root / 'benchmarks' / 'torch_peer.py'
  if not script.exists():
    raise errors.UsageError(f'--compare needs a checkout: there is no {script}')
  return script
