"""The participants of the table: kd_jax's configurations, PyTorch's loops."""

from collections.abc import Callable, Mapping
import functools
import importlib.util
import json
import os
import pathlib
import sys
from typing import Any

from kd_jax import errors
from kd_jax.benchmark import case, cost, pairing, peer

HERE = pathlib.Path(__file__).resolve().parent

_BF16_TEACHER = HERE.parent / 'kd_bfloat16_teacher.py'  # the student is f32
_FFSD_BATCHED = HERE.parent / 'ffsd_batched.py'  # its students run as one
_KD = {'config': 'kd:cifar100_r32x4_r8x4', 'batch_size': 64}
_CE = {'config': 'ce', 'student': 'resnet32x4', 'batch_size': 64}
# The rows, the most important first. 'of' names the row that a loop of PyTorch
# is compared with; 'variant' is a variant of benchmarks/torch_peer.py.
ROWS: dict[str, dict[str, Any]] = {
  'KD': _KD,
  'KD PyTorch compiled': {'of': 'KD', 'variant': 'compiled'},
  'KD bf16': {**_KD, 'dtype': 'bfloat16'},
  'KD PyTorch compiled bf16': {'of': 'KD bf16', 'variant': 'bfloat16'},
  'KD PyTorch eager': {'of': 'KD', 'variant': 'eager'},
  'KD PyTorch DataLoader': {'of': 'KD', 'variant': 'dataloader'},
  'Tf-FD': {'config': 'tf_fd:cifar100_r20', 'batch_size': 128},
  'FFSD': {'config': 'ffsd:cifar100_r20', 'batch_size': 128},
  'FFSD batched': {'config': str(_FFSD_BATCHED), 'batch_size': 128},
  'KD bf16 teacher': {**_KD, 'config': str(_BF16_TEACHER)},
  'KD bf16 batch 512': {**_KD, 'dtype': 'bfloat16', 'batch_size': 512},
  # Perhaps slow: its dispatches are short, so that its turns can be short.
  'KD deterministic': {**_KD, 'deterministic': True, 'steps_per_dispatch': 8},
  'CE resnet32x4': _CE,
}


class Ours(peer.Peer):
  """A configuration of kd_jax, with what `turns.row` reads of a `case.Case`."""

  def __init__(self, label: str, given: dict[str, Any]):
    """Starts the process and waits until it has compiled."""
    program = [sys.executable, str(HERE / 'lane.py')]
    given = {**given, 'label': label}
    super().__init__(label, [*program, json.dumps(given)])
    about = dict(self.about)
    self.costs = cost.Costs(**about.pop('costs'))
    self.batch_size, self.dtype = given['batch_size'], given['dtype']
    self.count, self.compile_s = about['count'], about['compile_s']
    self.chips, self.peak_bytes = about['chips'], about['peak_bytes']
    self.sizes = about['params'], about['extra_params']
    self.extra_params = about['extra_params']
    self.kept_params = about['kept_params']

  def turn(self, steps: int) -> cost.Turn:
    """Takes at least `steps` steps, and waits for the device."""
    return cost.Turn(**self.ask(steps))


class Product(peer.Peer):
  """A large matrix product, which measures the device's peak."""

  def __init__(self, label: str, dtype: str):
    """Starts the process and waits until it has compiled."""
    argument = json.dumps({'product': dtype})
    super().__init__(label, [sys.executable, str(HERE / 'lane.py'), argument])
    self.flops, self.dtype = self.about['flops'], dtype

  def turn(self, steps: int) -> cost.Turn:
    """Takes one chain of products."""
    return cost.Turn(**self.ask(steps))


class Torch(peer.Peer):
  """A training loop of PyTorch.

  Attributes:
    ours: The row that it is compared with; set after the turns.
  """

  ours: Ours

  def __init__(self, label: str, given: dict[str, Any]):
    """Starts the process and waits until it has warmed up.

    Raises:
      UsageError: It cannot run on this device.
    """
    script = str(HERE.parent / 'torch_peer.py')
    # Threads that wait actively slow down the processes beside them.
    waiting = {'OMP_WAIT_POLICY': os.environ.get('OMP_WAIT_POLICY', 'PASSIVE')}
    super().__init__(
      label, [sys.executable, script, json.dumps(given)], waiting
    )
    if why := self.about.get('left_out'):
      self.close()
      raise errors.UsageError(why)
    self.sizes = self.about['params'], self.about['extra_params']

  def turn(self, steps: int) -> cost.Turn:
    """Takes `steps` steps, and waits for the device."""
    return cost.Turn(self.ask(steps)['ms'])


def chosen(options: Mapping[str, Any]) -> list[str]:
  """Returns the names of the requested rows, in the order of the table.

  A row of PyTorch brings the row that it is compared with.

  Args:
    options: The options of run.py.

  Raises:
    UsageError: A name is unknown.
  """
  names = options['rows'].split(',') if options['rows'] else list(ROWS)
  for name in names:
    if name not in ROWS:
      raise errors.unknown('value of --rows:', name, ROWS)
  wanted = {*names, *(ROWS[name].get('of', name) for name in names)}
  return [name for name in ROWS if name in wanted]


def given(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the arguments of lane.py for a row of kd_jax.

  Args:
    name: A key of `ROWS`.
    options: The options of run.py.
  """
  row = ROWS[name]
  batch = options['batch_size'] or row['batch_size']
  return {
    'config': row['config'],
    'student': options['student'] or row.get('student'),
    'teacher': options['teacher'] or row.get('teacher'),
    'dtype': row.get('dtype', 'float32'),
    'image_size': options['image_size'],
    'classes': 100,
    'batch_size': batch,
    'steps_per_dispatch': row.get('steps_per_dispatch', 0),
    'images': options['images'],
    'devices': 1,
    'deterministic': row.get('deterministic', False),
  }


def torch_given(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the arguments of torch_peer.py for a row of PyTorch.

  Args:
    name: A key of `ROWS`.
    options: The options of run.py.

  Raises:
    UsageError: The loops of PyTorch do not support the configuration.
  """
  row = ROWS[name]['of']
  arguments = given(row, options)
  wanted = case.Wanted(**{key: arguments[key] for key in case.Wanted._fields})
  config = case.configured(arguments['config'], wanted)
  exp = case.experiment(config, wanted)
  return {
    **pairing.arguments(config, exp, wanted, row),
    'variant': ROWS[name]['variant'],
    'compile_mode': options['compile_mode'],
  }


def _torch(name: str, options: Mapping[str, Any]) -> Torch:
  return Torch(name, torch_given(name, options))


def makers(options: Mapping[str, Any]) -> dict[str, Callable[[], Any]]:
  """Returns the constructors of all that take turns, in the order of starting.

  Args:
    options: The options of run.py.
  """
  names = chosen(options)
  with_torch = importlib.util.find_spec('torch') is not None
  if not with_torch:
    print('PyTorch is not installed here: only our own steps are timed')
  own_rows = {
    row_name: given(row_name, options)
    for row_name in names
    if 'of' not in ROWS[row_name]
  }
  constructors: dict[str, Callable[[], Any]] = {}
  for dtype in sorted(
    {row['dtype'] for row in own_rows.values()}, reverse=True
  ):
    label = f'matrix product {dtype}'
    constructors[label] = functools.partial(Product, label, dtype)
  for name in names:
    if name in own_rows:
      constructors[name] = functools.partial(Ours, name, own_rows[name])
    elif with_torch:
      constructors[name] = functools.partial(_torch, name, options)
  return constructors
