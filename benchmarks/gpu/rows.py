"""The participants of the table: kd_jax's configurations, PyTorch's loops."""

from collections.abc import Callable, Mapping
from concurrent import futures
import fnmatch
import functools
import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from typing import Any

from kd_jax import errors
from kd_jax.benchmark import case, cost, pairing, peer

HERE = pathlib.Path(__file__).resolve().parent

_BF16_TEACHER = HERE.parent / 'kd_bfloat16_teacher.py'  # the student is f32
_FFSD_BATCHED = HERE.parent / 'ffsd_batched.py'  # its students run as one
_KD = {'config': 'kd:cifar100_r32x4_r8x4', 'batch_size': 64}
_CE = {'config': 'ce', 'student': 'resnet32x4', 'batch_size': 64}
_TF_FD = {'config': 'tf_fd:cifar100_r20', 'batch_size': 128}
_CE20 = {'config': 'ce:cifar100_r20', 'batch_size': 128}
_R34 = {
  'config': 'kd:imagenet_r34_r18', 'image_size': 224, 'classes': 1000,
  'images': 2000,
}  # fmt: skip
# The methods beside KD whose loops PyTorch has, on the same pair of networks.
_OTHERS = {
  'FPD': {'config': 'fpd:cifar100_r32x4_r8x4'},
  'OFD': {'config': 'ofd:cifar100_r32x4_r8x4'},
  'FFSD resnet8x4': {'config': 'ffsd:cifar100_r8', 'student': 'resnet8x4'},
  'PICS': {'config': 'pics:cifar100_r32x4_r8x4'},
  'CRD': {'config': 'crd:cifar100_r32x4_r8x4'},
}


def _family(
  name: str, row: dict[str, Any], batch_size: int, suffix: str = ''
) -> dict[str, dict[str, Any]]:
  """Returns a configuration's rows in both dtypes, beside PyTorch's loops.

  Args:
    name: The name that the rows begin with.
    row: The configuration.
    batch_size: Images of a step.
    suffix: What the names end with.
  """
  row = {**row, 'batch_size': batch_size}
  own, bf16 = f'{name}{suffix}', f'{name} bf16{suffix}'
  loops = {
    'compiled': {'of': own, 'variant': 'compiled'},
    'compiled bf16': {'of': bf16, 'variant': 'bfloat16'},
    'eager': {'of': own, 'variant': 'eager'},
    'DataLoader': {'of': own, 'variant': 'dataloader'},
  }
  return {
    own: row,
    bf16: {**row, 'dtype': 'bfloat16'},
    **{f'{name} PyTorch {k}{suffix}': loop for k, loop in loops.items()},
  }


# The rows. 'of' names the row that a loop of PyTorch is compared with;
# 'variant' is a variant of benchmarks/torch_peer.py. 'seeds' train in one
# program and 'processes' side by side; 'beside' names the row that they are
# compared with.
ROWS: dict[str, dict[str, Any]] = {
  **_family('KD', _KD, 64),
  # The rows above have the teacher ahead, as a run has it on a GPU.
  'KD step by step': {**_KD, 'teacher_ahead': 1},
  'KD bf16 step by step': {**_KD, 'dtype': 'bfloat16', 'teacher_ahead': 1},
  'Tf-FD': _TF_FD,
  'FFSD': {'config': 'ffsd:cifar100_r20', 'batch_size': 128},
  'FFSD batched': {'config': str(_FFSD_BATCHED), 'batch_size': 128},
  'KD bf16 teacher': {**_KD, 'config': str(_BF16_TEACHER)},
  'KD bf16 batch 512': {**_KD, 'dtype': 'bfloat16', 'batch_size': 512},
  # Perhaps slow: its dispatches are short, so that its turns can be short.
  'KD deterministic': {**_KD, 'deterministic': True, 'steps_per_dispatch': 8},
  'CE resnet32x4': _CE,
}
# Those that a call times where --rows chooses none; a quarter of an hour has
# no time for the others.
FIRST = tuple(ROWS)
ROWS |= {
  'Tf-FD 3 seeds': {**_TF_FD, 'seeds': 3, 'beside': 'Tf-FD'},
  'Tf-FD 3 processes': {**_TF_FD, 'processes': 3, 'beside': 'Tf-FD'},
  'KD 3 seeds': {**_KD, 'seeds': 3, 'beside': 'KD'},
  'KD 3 processes': {**_KD, 'processes': 3, 'beside': 'KD'},
  'CE resnet20': _CE20,
  'CE resnet20 3 seeds': {**_CE20, 'seeds': 3, 'beside': 'CE resnet20'},
}
for _name, _row in {'KD': _KD, **_OTHERS}.items():
  ROWS |= _family(_name, _row, 64) | _family(_name, _row, 512, ' batch 512')
ROWS |= _family('CE resnet32x4', _CE, 64)
ROWS |= _family('FFSD', ROWS['FFSD'], 128)
ROWS |= _family('ResNet34 to 18', _R34, 128)


class Ours(peer.Peer):
  """A configuration of kd_jax, with what `turns.row` reads of a `case.Case`."""

  def __init__(
    self,
    label: str,
    given: dict[str, Any],
    environment: Mapping[str, str] | None = None,
  ):
    """Starts the process and waits until it has compiled."""
    program = [sys.executable, str(HERE / 'lane.py')]
    given = {**given, 'label': label}
    super().__init__(label, [*program, json.dumps(given)], environment)
    about = dict(self.about)
    self.costs = cost.Costs(**about.pop('costs'))
    self.batch_size = given['batch_size'] * given['seeds']
    self.dtype = given['dtype']
    self.count, self.ahead = about['count'], about['ahead']
    self.compile_s = about['compile_s']
    self.chips, self.peak_bytes = about['chips'], about['peak_bytes']
    self.sizes = about['params'], about['extra_params']
    self.extra_params = about['extra_params']
    self.kept_params = about['kept_params']

  def turn(self, steps: int) -> cost.Turn:
    """Takes at least `steps` steps, and waits for the device."""
    return cost.Turn(**self.ask(steps))


class Beside(Ours):
  """Processes of one configuration that train side by side.

  They share the device by CUDA's multi-process service where its daemon can be
  started, and by slices of time elsewhere; the label says so.
  """

  def __init__(self, label: str, given: dict[str, Any], count: int):
    """Starts the processes one after the other, as the first one compiles."""
    mps = multi_process_service()
    self.label = f'{label}, MPS' if mps else f'{label}, no MPS'
    self._lanes: list[Ours] = []
    try:
      for _ in range(count):
        self._lanes.append(Ours(label, given, mps))
    except BaseException:
      self.close()
      raise
    first = self._lanes[0]
    self.about, self.dtype, self.count = first.about, first.dtype, first.count
    self.costs = first.costs._replace(flops=count * first.costs.flops)
    self.batch_size = count * first.batch_size
    self.compile_s, self.chips = first.compile_s, first.chips
    self.peak_bytes = first.peak_bytes and count * first.peak_bytes
    self.sizes, self.extra_params = first.sizes, first.extra_params
    self.kept_params = first.kept_params

  def turn(self, steps: int) -> cost.Turn:
    """Takes at least `steps` steps in each process at the same time."""
    with futures.ThreadPoolExecutor(len(self._lanes)) as pool:
      took = list(pool.map(lambda lane: lane.turn(steps), self._lanes))
    return max(took)  # by the milliseconds

  def kill(self) -> None:
    """Kills the processes and their children, from any thread."""
    for lane in self._lanes:
      lane.kill()

  def close(self) -> None:
    """Kills the processes and their children, and waits for their end."""
    for lane in self._lanes:
      lane.close()


def multi_process_service() -> dict[str, str]:
  """Starts the daemon by which processes share a GPU.

  run.py ends it with the other processes of the table.

  Returns:
    The variables of the processes that share it; {} where it cannot be started.
  """
  program = shutil.which('nvidia-cuda-mps-control')
  if program is None:
    return {}
  folder = tempfile.mkdtemp(prefix='mps-')
  variables = {
    'CUDA_MPS_PIPE_DIRECTORY': f'{folder}/pipe',
    'CUDA_MPS_LOG_DIRECTORY': f'{folder}/log',
  }
  for path in variables.values():
    os.mkdir(path)
  environment = {**os.environ, **variables}
  started = subprocess.run([program, '-d'], env=environment, check=False)
  return {} if started.returncode else variables


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

  A row brings the row that it is compared with.

  Args:
    options: The options of run.py. 'rows' has names and patterns such as 'FPD*'
      with commas between; '' requests `FIRST`.

  Raises:
    UsageError: A name is unknown, or a pattern fits no name.
  """
  names: list[str] = []
  asked = [name.strip() for name in options['rows'].split(',')]
  for pattern in asked if options['rows'] else FIRST:
    fitting = [n for n in ROWS if fnmatch.fnmatchcase(n, pattern)]
    if not fitting:
      raise errors.unknown('value of --rows:', pattern, ROWS)
    names += fitting
  wanted = {*names}
  for key in ('of', 'beside'):
    wanted |= {ROWS[name].get(key, name) for name in names}
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
    'image_size': row.get('image_size', options['image_size']),
    'classes': row.get('classes', 100),
    'batch_size': batch,
    'steps_per_dispatch': row.get('steps_per_dispatch', 0),
    'teacher_ahead': row.get('teacher_ahead', 0),
    'images': row.get('images', options['images']),
    'devices': 1,
    'deterministic': row.get('deterministic', False),
    'seeds': row.get('seeds', 1),
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
    if count := ROWS[name].get('processes'):
      constructors[name] = functools.partial(
        Beside, name, own_rows[name], count
      )
    elif name in own_rows:
      constructors[name] = functools.partial(Ours, name, own_rows[name])
    elif with_torch:
      constructors[name] = functools.partial(_torch, name, options)
  return constructors
