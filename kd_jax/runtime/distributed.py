"""Communication between the processes that run one program together.

Every process must call the functions of this module in the same order. In a
program of one process they return at once.
"""

from collections.abc import Callable
import functools
import itertools
import json
import os
import socket
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from kd_jax import errors
from kd_jax.runtime import screen

Value = TypeVar('Value')

# The variables that identify the processes without a scheduler.
EXPLICIT = ('JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID')
# SLURM sets these in the tasks of a job step, but not all of them in a batch
# script.
_SLURM = ('SLURM_JOB_ID', 'SLURM_STEP_NODELIST', 'SLURM_PROCID')

START_AGAIN = 75  # the exit code EX_TEMPFAIL of sysexits.h

# A week, because process 0 may wait for another run to finish.
_LONG_MS = 7 * 24 * 3600 * 1000
_EXIT_MS = 5000  # for all processes to fail with the same error

# Numbers the exchanges, so that each has keys of its own in the key-value
# store. JAX has one store per program, so one counter suffices.
_exchanges = itertools.count()


def start(heartbeat_timeout_seconds: int) -> None:
  """Joins the other processes of the program, if the environment names any.

  The environment names them where JAX_COORDINATOR_ADDRESS (host:port of
  process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID are set, in the tasks of a
  SLURM step, and on the hosts of a TPU slice. This must run before any other
  use of JAX.

  Args:
    heartbeat_timeout_seconds: Seconds without a heartbeat from one process
      after which the runtime ends all others (exit code 134).

  Raises:
    UsageError: Only some of the three variables are set, or their values are
      wrong, or the other processes did not join in time.
  """
  arguments = _named()
  if arguments is None:
    return
  try:
    jax.distributed.initialize(
      **arguments, heartbeat_timeout_seconds=heartbeat_timeout_seconds
    )
  except RuntimeError as error:
    line = str(error).strip().partition('\n')[0][:200]
    raise errors.UsageError(
      f'the processes did not find one another: {line}; see that all of them '
      'run, with the same coordinator address, and that no proxy or firewall '
      'is between them'
    ) from error


def _named() -> dict[str, Any] | None:
  """Returns the arguments of `jax.distributed.initialize`.

  None stands for a program of one process; an empty dict leaves it to JAX to
  ask the scheduler.
  """
  variables = {name: os.environ.get(name, '') for name in EXPLICIT}
  if any(variables[name] for name in EXPLICIT[1:]):
    address, count, index = variables.values()
    if not (address and count.isdecimal() and index.isdecimal()):
      text = ', '.join(f'{name}={value!r}' for name, value in variables.items())
      raise errors.UsageError(
        f'{text}: set all three, to host:port, a number of processes, and a '
        'number from 0'
      )
    if int(index) >= int(count):
      raise errors.UsageError(
        f'JAX_PROCESS_ID={index} with JAX_NUM_PROCESSES={count}: give 0 to '
        f'{int(count) - 1}'
      )
    if int(count) == 1:
      return None
    return {
      'coordinator_address': address,
      'num_processes': int(count),
      'process_id': int(index),
      'cluster_detection_method': 'deactivate',
    }
  slurm = all(os.environ.get(name) for name in _SLURM)
  if slurm and int(os.environ.get('SLURM_NTASKS', '1')) > 1:
    return {}
  return {} if _on_tpu_slice() else None


def _on_tpu_slice() -> bool:
  """Returns whether this machine is one of several hosts of TPUs."""
  if os.environ.get('JAX_PLATFORMS', 'tpu').partition(',')[0] != 'tpu':
    return False
  if int(os.environ.get('MEGASCALE_NUM_SLICES') or 1) > 1:
    return True
  hosts = os.environ.get('TPU_PROCESS_ADDRESSES') or os.environ.get(
    'TPU_WORKER_HOSTNAMES', ''
  )
  if hosts or os.environ.get('TPU_SKIP_MDS_QUERY'):
    return ',' in hosts
  if not os.path.exists('/dev/accel0') and not os.path.exists('/dev/vfio/0'):
    return False
  return ',' in _tpu_metadata('worker-network-endpoints')


def _tpu_metadata(key: str) -> str:
  """Returns an attribute of a TPU virtual machine, '' if there is none."""
  import urllib.request

  url = f'http://metadata.google.internal/computeMetadata/v1/instance/attributes/{key}'
  request = urllib.request.Request(url, headers={'Metadata-Flavor': 'Google'})
  try:
    with urllib.request.urlopen(request, timeout=5) as answer:
      return answer.read().decode()
  except OSError:
    return ''


def count() -> int:
  """Returns the number of processes."""
  return jax.process_count()


def index() -> int:
  """Returns the index of this process; process 0 writes the files."""
  return jax.process_index()


def is_first() -> bool:
  """Returns whether this is process 0."""
  return jax.process_index() == 0


def say(*lines: str) -> None:
  """Prints lines, each as `errors.line` shows it, in process 0 only."""
  if is_first():
    screen.show('\n'.join(map(errors.line, lines)))


def name() -> str:
  """Returns this process's name for messages: 'process 3 of 8 on host12'."""
  return f'process {index()} of {count()} on {socket.gethostname()}'


def gather(value: Value) -> list[Value]:
  """Returns the values of all processes, ordered by process index.

  Args:
    value: This process's value, which JSON can represent.
  """
  if count() == 1:
    return [value]
  client, key = _client(), f'kd_jax/{next(_exchanges)}'
  client.key_value_set(f'{key}/{index()}', json.dumps(value))
  return [
    json.loads(client.blocking_key_value_get(f'{key}/{i}', _LONG_MS))
    for i in range(count())
  ]


def first(what: Callable[[], Value]) -> Value:
  """Calls a function in process 0 and returns its result in all processes.

  Args:
    what: The function. Its result is a value which JSON can represent.

  Raises:
    UsageError: The function raised it in process 0; every process raises it.
    RunError: The function raised it in process 0; every process raises it.
  """
  if count() == 1:
    return what()
  client, key = _client(), f'kd_jax/{next(_exchanges)}'
  if is_first():
    value, error = _tried(what)
    client.key_value_set(key, json.dumps([value, error]))
  value, error = json.loads(client.blocking_key_value_get(key, _LONG_MS))
  if error:
    raise _as_error(error)
  return value


def together(what: Callable[[], Value]) -> Value:
  """Calls a function in all processes; if one call raises, all raise.

  Args:
    what: The function.

  Returns:
    The result of this process's call.

  Raises:
    UsageError: The function raised it in some process.
    RunError: The function raised it in some process. If both occurred, the
      error of the lowest process index is raised.
  """
  if count() == 1:
    return what()
  value, error = _tried(what)
  raised = gather(error)
  for i, other in enumerate(raised):
    if other:
      kind, text = other
      everywhere = all(raised)
      raise _as_error([kind, text if everywhere else f'process {i}: {text}'])
  return value  # type: ignore[return-value]


def _tried(what: Callable[[], Value]) -> tuple[Value | None, list[str] | None]:
  try:
    return what(), None
  except errors.UsageError as error:
    return None, ['UsageError', str(error)]
  except errors.RunError as error:
    return None, ['RunError', str(error)]


def _as_error(told: list[str]) -> Exception:
  kind, text = told
  return {'UsageError': errors.UsageError, 'RunError': errors.RunError}[kind](
    text
  )


def poll(flag: bool, after: Any = None) -> Callable[[], bool]:
  """Starts to compute whether the flag of any process is true.

  The computation is queued on the devices behind the work that they already
  have. Every process calls this after the same training step, so all of them
  get the answer at the same step. The call does not block, except on CPUs:
  there one pool of threads serves all programs of a process, so programs that
  communicate must run one at a time.

  Args:
    flag: This process's flag.
    after: Arrays that the devices are still computing; on CPUs this call waits
      for them.

  Returns:
    A function that waits for the answer and returns it.
  """
  if count() == 1:
    return lambda: flag
  in_turn = jax.default_backend() == 'cpu'
  if in_turn:
    jax.block_until_ready(after)
  devices = np.array(jax.devices())
  mesh = Mesh(devices, ('all',))
  flags = jax.make_array_from_callback(
    devices.shape,
    NamedSharding(mesh, PartitionSpec('all')),
    lambda part: np.full(devices.shape, flag)[part],
  )
  answer = any_of(mesh)(flags)
  if in_turn:
    answer.block_until_ready()
  return lambda: bool(answer)


@functools.cache
def any_of(mesh: Mesh) -> Any:
  """Returns the jitted function of `poll`: whether any of [D] bool is true.

  Args:
    mesh: A mesh of all D devices.
  """
  return jax.jit(jnp.any, out_shardings=NamedSharding(mesh, PartitionSpec()))


def leave(code: int, why: Exception | None = None) -> None:
  """Ends this process if it failed alone; returns if all processes failed.

  At exit JAX waits for the other processes and aborts if they do not come. The
  exit code of a process that fails alone would be lost.

  Args:
    code: The exit code.
    why: An error to print first; None if it is already printed.
  """
  if not jax.distributed.is_initialized():
    return
  if why:
    screen.show(f'kd_jax: {errors.line(why)}', error=True)
  try:
    key = f'kd_jax/exit/{code}'
    _client().wait_at_barrier(key, _EXIT_MS)
  except Exception:  # JAX documents no class for a barrier that times out
    os._exit(code)


def _client() -> Any:
  """Returns the client of the key-value store that JAX and Orbax use too."""
  from jax._src import distributed  # JAX has no public way to it

  return distributed.global_state.client
