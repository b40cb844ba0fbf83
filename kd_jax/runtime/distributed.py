"""The processes that run one program together: who they are, how they agree.

Every function here is called by all of them, in the same order. A program of
one process goes through the same functions, which then do nothing.
"""

from collections.abc import Callable
import functools
import itertools
import json
import os
import socket
import sys
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from kd_jax import errors

Value = TypeVar('Value')

# What names the processes where no scheduler does.
EXPLICIT = ('JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID')
# What SLURM sets in the tasks of a step, and in no batch script.
_SLURM = ('SLURM_JOB_ID', 'SLURM_STEP_NODELIST', 'SLURM_PROCID')

START_AGAIN = 75  # the exit code EX_TEMPFAIL of sysexits.h

_LONG_MS = 7 * 24 * 3600 * 1000  # somebody may wait for another run
_EXIT_MS = 5000  # for all to end of the same error

# JAX has one group of processes in a program, and so one count of what they
# told each other: it is what keeps their messages apart.
_exchanges = itertools.count()


def start(heartbeat_timeout_seconds: int) -> None:
  """Joins the other processes, where the environment says there are any.

  That is where JAX_COORDINATOR_ADDRESS (host:port of process 0),
  JAX_NUM_PROCESSES and JAX_PROCESS_ID are set; in the tasks of a SLURM step;
  on the hosts of a TPU slice. It must come before anything else of JAX.

  Args:
    heartbeat_timeout_seconds: after so long without a sign of life from one
      process, the runtime ends all others (exit code 134).

  Raises:
    UsageError: for half an environment, or where the others do not come.
  """
  given = _named()
  if given is None:
    return
  try:
    jax.distributed.initialize(
      **given, heartbeat_timeout_seconds=heartbeat_timeout_seconds
    )
  except RuntimeError as error:
    line = str(error).strip().partition('\n')[0][:200]
    raise errors.UsageError(
      f'the processes did not find one another: {line}; see that all of them '
      'run, with the same coordinator address, and that no proxy or firewall '
      'is between them'
    ) from error


def _named() -> dict[str, Any] | None:
  """Arguments of `jax.distributed.initialize`; None for one process."""
  found = {name: os.environ.get(name, '') for name in EXPLICIT}
  if any(found[name] for name in EXPLICIT[1:]):
    address, count, index = found.values()
    if not (address and count.isdecimal() and index.isdecimal()):
      text = ', '.join(f'{name}={value!r}' for name, value in found.items())
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
  """Whether this is one of several hosts with TPUs."""
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
  """An attribute of a TPU virtual machine, '' where there is no such thing."""
  import urllib.request

  url = f'http://metadata.google.internal/computeMetadata/v1/instance/attributes/{key}'
  request = urllib.request.Request(url, headers={'Metadata-Flavor': 'Google'})
  try:
    with urllib.request.urlopen(request, timeout=5) as answer:
      return answer.read().decode()
  except OSError:
    return ''


def count() -> int:
  """How many processes there are."""
  return jax.process_count()


def index() -> int:
  """Which one this is; 0 is the one that writes."""
  return jax.process_index()


def is_first() -> bool:
  """Whether this is process 0."""
  return jax.process_index() == 0


def say(text: str) -> None:
  """Prints a line, once."""
  if is_first():
    print(text, flush=True)


def name() -> str:
  """This process for a person: 'process 3 of 8 on host12'."""
  return f'process {index()} of {count()} on {socket.gethostname()}'


def gather(value: Value) -> list[Value]:
  """The `value` of every process, in their order.

  Args:
    value: what JSON can hold.
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
  """What `what` gives process 0, which alone calls it; or raises there.

  Args:
    what: gives what JSON can hold; raises UsageError or RunError.
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
  """What `what` gives here; where it raised in any process, raises in all.

  Args:
    what: raises UsageError or RunError.
  """
  if count() == 1:
    return what()
  value, error = _tried(what)
  told = gather(error)
  for i, other in enumerate(told):
    if other:
      kind, text = other
      everywhere = all(told)
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
  """Asks whether any process says yes.

  The question goes to the devices behind what they do already: every process
  asks it after the same step, and so all hear of it at the same step. This
  returns at once, but on CPUs, where the threads of a process serve all its
  programs: there those that exchange run one at a time.

  Args:
    flag: what this process says.
    after: arrays of what the devices do already.

  Returns:
    What waits for the answer.
  """
  if count() == 1:
    return lambda: flag
  in_turn = jax.default_backend() == 'cpu'
  if in_turn:
    jax.block_until_ready(after)
  devices = np.array(jax.devices())
  mesh = Mesh(devices, ('all',))
  asked = jax.make_array_from_callback(
    devices.shape,
    NamedSharding(mesh, PartitionSpec('all')),
    lambda part: np.full(devices.shape, flag)[part],
  )
  answer = any_of(mesh)(asked)
  if in_turn:
    answer.block_until_ready()
  return lambda: bool(answer)


@functools.cache
def any_of(mesh: Mesh) -> Any:
  """What `poll` asks the devices: whether any of [D] bool is true."""
  return jax.jit(jnp.any, out_shardings=NamedSharding(mesh, PartitionSpec()))


def leave(code: int, why: Exception | None = None) -> None:
  """Ends a process that failed; returns where all of them did.

  JAX ends a program by waiting for its other processes, and aborts it where
  they do not come: of a process that fails alone no code would be seen.

  Args:
    code: the exit code.
    why: is said first, if it is not yet.
  """
  if not jax.distributed.is_initialized():
    return
  if why:
    print(f'kd_jax: {why}', file=sys.stderr, flush=True)
  try:
    key = f'kd_jax/exit/{code}'
    _client().wait_at_barrier(key, _EXIT_MS)
  except Exception:  # whatever the runtime raises where nobody comes
    os._exit(code)


def _client() -> Any:
  """The key-value store of the processes, which JAX and Orbax use too."""
  from jax._src import distributed  # JAX offers it nowhere else

  return distributed.global_state.client
