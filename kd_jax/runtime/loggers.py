"""The writers that a user names, each in a thread that cannot stop the run."""

from collections.abc import Mapping, Sequence
import contextlib
import queue
import threading
from typing import Any

from kd_jax import errors
from kd_jax.runtime import trackers, writers

NAMES: Mapping[str, type[writers.Writer]] = {
  'tensorboard': writers.TensorBoard,
  'wandb': trackers.Wandb,
  'mlflow': trackers.MLflow,
}
_METHODS = ('open', 'scalars', 'flush', 'close')
_MOST_CALLS = 10_000  # that may wait for a slow writer
_PATIENCE_S = 20.0  # for a writer to close


class Failed(Exception):  # noqa: N818  (it is said, and the run goes on)
  """What went wrong in a writer, in one line."""


def make(names: Sequence[str]) -> dict[str, writers.Writer]:
  """Returns new writers by name; nothing is written yet.

  Args:
    names: Names of `NAMES`, or 'package.module:Name' for a class that the user
      wrote, whose constructor takes no arguments.

  Raises:
    UsageError: A name is unknown or there twice, or what it needs is missing.
  """
  made: dict[str, writers.Writer] = {}
  for name in names:
    if name in made:
      raise errors.UsageError(f'logger {name!r} is named twice; name it once')
    if name == 'tensorboard':  # a local file, as fast as metrics.jsonl
      made[name] = writers.TensorBoard()
    else:
      made[name] = Beside(_own(name) if ':' in name else _known(name)())
  return made


def _known(name: str) -> type[writers.Writer]:
  if name not in NAMES:
    raise errors.unknown('logger', name, [*NAMES, 'package.module:Name'])
  return NAMES[name]


def _own(name: str) -> writers.Writer:
  """Returns an instance of a class that the user wrote."""
  cls = errors.imported(*name.split(':', 1))
  if not isinstance(cls, type):
    raise errors.UsageError(
      f'logger {name!r} is no class, but a {type(cls).__name__}; see '
      'kd_jax.runtime.writers.Writer'
    )
  try:
    writer = cls()
  except errors.UsageError:
    raise
  except Exception as error:
    raise errors.UsageError(
      f'logger {name!r} cannot be made: {text(error)}; it is called without '
      'arguments'
    ) from error
  lacking = [m for m in _METHODS if not callable(getattr(writer, m, None))]
  if lacking:
    raise errors.UsageError(
      f'logger {name!r} lacks {", ".join(lacking)}; see '
      'kd_jax.runtime.writers.Writer'
    )
  return writer


class Beside:
  """A writer whose calls are made in a thread of its own, in order.

  No call waits but `close`, for some seconds. An error in the thread is raised
  by the next call as Failed.
  """

  def __init__(self, writer: writers.Writer):
    """Stores the writer; `open` starts the thread.

    Args:
      writer: The writer to call.
    """
    self._writer = writer
    self._error = ''
    self._calls: queue.Queue[tuple[Any, ...]] = queue.Queue(_MOST_CALLS)
    self._thread = threading.Thread(target=self._work, daemon=True)

  def open(
    self,
    about: writers.About,
    step: int,
    past: Sequence[Mapping[str, Any]],
  ) -> None:
    """Starts the thread, and calls `open` there; see `writers.Writer`."""
    self._thread.start()
    self._ask('open', about, step, past)

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Calls `scalars` in the thread; see `writers.Writer`.

    Raises:
      Failed: The writer failed, or is too far behind.
    """
    self._ask('scalars', step, dict(values))

  def flush(self) -> None:
    """Calls `flush` in the thread; see `scalars`."""
    self._ask('flush')

  def close(self, result: Mapping[str, Any] | None) -> None:
    """Calls `close` in the thread, and waits for its end.

    Args:
      result: See `writers.Writer`.

    Raises:
      Failed: The writer failed, or does not end in time.
    """
    self._ask('close', result)
    self._thread.join(_PATIENCE_S)
    if self._thread.is_alive():
      raise Failed(
        f'it did not end within {_PATIENCE_S:.0f} s; its last values may be '
        'missing'
      )
    if self._error:
      raise Failed(self._error)

  def _ask(self, *call: Any) -> None:
    if self._error:
      raise Failed(self._error)
    try:
      self._calls.put_nowait(call)
    except queue.Full:
      raise Failed(f'it is more than {_MOST_CALLS} calls behind') from None

  def _work(self) -> None:
    method = ''
    while method != 'close':
      method, *arguments = self._calls.get()
      try:
        getattr(self._writer, method)(*arguments)
      except BaseException as error:  # SystemExit would end the thread alone
        self._error = text(error)
        if method != 'close':
          with contextlib.suppress(BaseException):
            self._writer.close(None)
        return


def text(error: BaseException) -> str:
  """Returns an error as 'KeyError: x', in a line of at most 300 signs."""
  line = str(error).strip().partition('\n')[0]
  return f'{type(error).__name__}: {line}'.removesuffix(': ')[:300]
