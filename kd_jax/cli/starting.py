"""What the verbs that train do before their first run, and around all runs."""

from collections.abc import Iterator, Sequence
import contextlib
import os
import signal
from typing import Any

from absl import logging
import jax

from kd_jax import domains, errors
from kd_jax.runtime import distributed, durable, gcs, run_dir, screen
from kd_jax.training import api, run

CTRL_C = 130  # the exit code that shells give to a command ended by Ctrl-C


def before_jax_starts(*, deterministic: bool, cache_dir: str) -> None:
  """Applies the settings that JAX needs before the first use of a device.

  Args:
    deterministic: Whether XLA shall compute with the same bits every time.
    cache_dir: The folder of what all runs share; see `run_dir.cache_root`.
  """
  # Orbax logs every save, and a traceback of each error that it also raises.
  logging.set_verbosity(logging.FATAL)
  if deterministic:
    flags = (os.environ.get('XLA_FLAGS', ''), *api.DETERMINISTIC)
    os.environ['XLA_FLAGS'] = ' '.join(flags).strip()
  # A persistent cache, so that later starts need not compile.
  if not os.environ.get('JAX_COMPILATION_CACHE_DIR'):
    compiled = run_dir.cache_root(cache_dir) / 'compiled'
    try:
      if not gcs.is_bucket(compiled):
        compiled.mkdir(parents=True, exist_ok=True)
    except OSError as error:
      # JAX has not started, so that no process knows yet whether it is first.
      screen.show(
        'compiled programs are not kept, and every start compiles: '
        f'{compiled} cannot be made ({error.strerror}); set config.cache_dir '
        'or KD_JAX_CACHE to a folder that can be written',
        error=True,
      )
    else:
      jax.config.update('jax_compilation_cache_dir', os.fspath(compiled))


def seeds(text: str) -> list[int]:
  """Returns the seeds that `--seeds` names, such as '0,1,2'.

  Args:
    text: The value of `--seeds`.

  Raises:
    UsageError: A seed is no whole number, not allowed, or there twice.
  """
  found: list[int] = []
  for part in text.split(','):
    digits = part.strip()
    is_short = digits.isascii() and digits.isdecimal() and len(digits) < 20
    seed = int(digits) if is_short else -1
    if not domains.SEED.has(seed):
      raise errors.UsageError(
        f'--seeds: {digits[:40]!r} is no seed; give whole numbers, 0 '
        'to 2147483647, such as 0,1,2'
      )
    if seed in found:
      raise errors.UsageError(
        f'--seeds: {seed} is there twice; give each seed once'
      )
    found.append(seed)
  return found


def check_together(seeds: Sequence[int], processes: int) -> None:
  """Checks that seeds can train together.

  Args:
    seeds: The seeds.
    processes: The number of processes of the program.

  Raises:
    UsageError: There is one seed, or there are several processes.
  """
  if len(seeds) == 1:
    raise errors.UsageError(
      '--together: there is one seed; give several, such as --seeds 0,1,2'
    )
  if processes > 1:
    raise errors.UsageError(
      f'--together: seeds train together in one process, and there are '
      f'{processes}: leave it out, and they train one after the other'
    )


class CtrlC(Exception):  # noqa: N818  (this is no error)
  """An interruption by Ctrl-C, after which the run is saved."""


class Stop:
  """Says whether a signal asked to stop."""

  def __init__(self) -> None:
    """Begins without a signal."""
    self._signals: list[int] = []

  def __call__(self) -> bool:
    """Returns whether a signal has arrived."""
    return bool(self._signals)

  @property
  def code(self) -> int:
    """The exit code of a command that has stopped."""
    by_ctrl_c = signal.SIGINT in self._signals
    return CTRL_C if by_ctrl_c else distributed.START_AGAIN

  def on_signal(self, number: int, _: Any) -> None:
    """Takes a signal; a second Ctrl-C ends the process at once."""
    self._signals.append(number)
    if number == signal.SIGINT:
      signal.signal(signal.SIGINT, signal.SIG_DFL)
      with contextlib.suppress(OSError):  # nobody reads it
        os.write(2, b'\nstopping and saving; Ctrl-C again ends at once\n')


@contextlib.contextmanager
def stopping() -> Iterator[Stop]:
  """Handles SIGTERM and Ctrl-C, and returns what says whether one arrived.

  The run then saves and ends, with exit code 75 after SIGTERM and 130 after
  Ctrl-C. With several processes it is enough that one gets the signal. (JAX has
  a service for this, which is not used: Orbax queries it from a thread of
  process 0 alone, with a past step, and the processes then do not all learn of
  the signal at the same step.)

  Raises:
    CtrlC: The run was interrupted by Ctrl-C.
  """
  stop = Stop()
  before = {
    number: signal.signal(number, stop.on_signal)
    for number in (signal.SIGTERM, signal.SIGINT)
  }
  try:
    yield stop
  except run.Interrupted as error:
    if stop.code == CTRL_C:
      raise CtrlC(str(error)) from error
    raise
  finally:
    if not stop():  # else a second signal finds what the first one has set
      for number, handler in before.items():
        signal.signal(number, handler)


@contextlib.contextmanager
def storage() -> Iterator[None]:
  """Raises RunError in place of the OSError of a storage that refuses a write.

  Raises:
    RunError: The storage is full, over its quota or read-only.
  """
  try:
    yield
  except OSError as error:
    if error.errno not in durable.STORAGE:
      raise
    raise errors.RunError(
      f'cannot write: {error}; free or unlock the storage, and start the same '
      'command again: it goes on from the last checkpoint'
    ) from error
