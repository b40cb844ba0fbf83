"""The folder of a run: its files and its lock.

config.json     the resolved configuration
metrics.jsonl   a record for each epoch, evaluation and checkpoint, and a point
                every `log_every` steps
events.*        the same scalars for TensorBoard, if it is among the loggers
wandb.json      the run's id at Weights & Biases, and the last step there;
                wandb/ is its own
mlflow.json     the run's id at MLflow
log.txt         the lines of the log with their times
curves.png      the learning curves
checkpoints/    the training state at the newest two checkpoints
teacher/        the teacher's variables; teacher.json has its accuracy
init.json       what the students begin with, where it is not at random
teacher-a/      those of a teacher with the name a, and teacher-a.json
student/        the trained student's variables, if it predicts by itself
deployed/       otherwise, the trained variables of the prediction, such as
                those of SimKD's projector
data.json       where the data were on this machine, if they are files
result.json     the results; it exists once the run is finished
alone.json      the results of its student trained alone, if they are known
"""

from collections.abc import Callable, Iterator
import contextlib
import json
import os
import time
from typing import Any
import uuid

from etils import epath

from kd_jax import config as config_lib
from kd_jax import errors
from kd_jax.runtime import (
  digests,
  distributed,
  durable,
  gcs,
  locks,
  screen,
  stored,
)

# A file by which the processes check that all of them see the folder.
_SHARED = '.shared'
_LATE_S = 30  # seconds that a network's file system may take to show a file
# The files that a run killed right after its start may leave.
_OWN = ('.lock', _SHARED)
# The files of JSON that a run reads again where it goes on.
_JSON = (
  'config.json', 'result.json', 'teacher.json', 'init.json', 'data.json',
  'alone.json', 'wandb.json', 'mlflow.json',
)  # fmt: skip

_METRICS = 'metrics.jsonl'
# The result of the student alone, and where it was trained.
ALONE = 'alone.json'
TEACHER = 'teacher'


def of_teacher(name: str) -> str:
  """Returns the folder of a teacher's variables; NAME.json has its facts.

  Args:
    name: The teacher's name; 'teacher' is that of a method's only one.
  """
  return TEACHER if name == TEACHER else f'{TEACHER}-{name}'


class Folder:
  """A run's folder, on a disk or in a bucket (gs://bucket/...).

  With several processes, all of them call `claim`, `lock`, `read` and `write`
  together; process 0 does the work and sends the result to the others. The
  other methods that write are for process 0 alone.

  Attributes:
    path: The folder's path; absolute on a disk.
  """

  def __init__(self, path: epath.PathLike):
    """Stores the path; nothing is read or written yet.

    Args:
      path: The folder's path; it need not exist.

    Raises:
      UsageError: The path is in a bucket of another service than `gs://`.
    """
    text = os.fspath(path)
    self._in_bucket = gcs.is_bucket(text)
    if self._in_bucket:
      gcs.prepare(text)
    else:
      text = os.path.abspath(text)
    self.path = epath.Path(text)
    self._held: locks.Held | None = None
    # The content of the files to which `append` adds, in a bucket.
    self._texts: dict[str, str] = {}

  def claim(self, config: dict[str, Any], data_facts: Any) -> None:
    """Writes config.json, or checks that it holds the same configuration.

    The number of epochs may be larger than before, unless a schedule depends
    on it.

    Args:
      config: The configuration, as returned by `config.plain`.
      data_facts: A JSON value that identifies the data.

    Raises:
      UsageError: The folder holds a run of another configuration or of other
        data, or files but no run, or cannot be written.
    """
    distributed.first(lambda: self._claim(_joined(config, data_facts)))

  def check(self, config: dict[str, Any], data_facts: Any) -> None:
    """Raises what `claim` would raise, but writes nothing.

    Args:
      config: The configuration, as returned by `config.plain`.
      data_facts: A JSON value that identifies the data.

    Raises:
      UsageError: The folder holds a run of another configuration, or files
        but no run.
    """
    distributed.first(lambda: self._fits(_joined(config, data_facts)))

  def _claim(self, new: dict[str, Any]) -> None:
    if not self._fits(new):
      old = self.read_alone('config.json')
      if old is not None and _adopts(old, new):
        distributed.say(
          f'{self.path} was begun before data were known by their content: it '
          'is taken to be a run of these data'
        )
      self.write_alone('config.json', new)

  def _fits(self, new: dict[str, Any]) -> bool:
    """Returns whether config.json holds that; it raises as `claim` does."""
    old = self.read_alone('config.json')
    if old is not None:
      home = cache_root(new['cache_dir'])
      self._compare(
        config_lib.determining(old), config_lib.determining(new), home
      )
      return old['epochs'] == new['epochs'] and not _adopts(old, new)
    if self._begun():
      raise errors.UsageError(
        f'{self.path} holds files but no run; give an empty or new --workdir'
      )
    return False

  def _compare(
    self, old: dict[str, Any], new: dict[str, Any], home: epath.Path
  ) -> None:
    if _adopts(old, new):
      new['data_facts'].pop('fingerprint')
    epochs_old, epochs_new = old.pop('epochs', 0), new.pop('epochs')
    relevant = {key: new.get(key) for key in ('optimizer', 'weights')}
    lines = config_lib.difference(old, new)
    if epochs_new != epochs_old and _depends_on_epochs(relevant):
      lines.append(
        f'config.epochs: {epochs_old} there, {epochs_new} here, and a cosine '
        'schedule depends on it'
      )
    elif epochs_new < epochs_old:
      lines.append(
        f'config.epochs: {epochs_old} there, {epochs_new} here; it may only '
        'grow'
      )
    if lines and all(line.startswith('config.data_facts.') for line in lines):
      was, now = (x['data_facts'].get('fingerprint', '') for x in (old, new))
      lines += filter(None, [digests.changed(was, now, home)])
      raise errors.UsageError(
        f'{self.path} holds a run of other data: {new["data"]["name"]} has '
        'changed since it was begun; give another --workdir, or put the data '
        f'back: {"; ".join(line.removeprefix("config.") for line in lines)}'
      )
    if lines:
      raise errors.UsageError(
        f'{self.path} holds a run of another configuration; give another '
        f'--workdir, or none: {"; ".join(lines)}'
      )

  @contextlib.contextmanager
  def lock(
    self,
    *,
    wait: bool,
    say: Callable[[str], None] = screen.show,
    waiting: Callable[[], None] = lambda: None,
  ) -> Iterator[None]:
    """Returns a context manager that locks the folder; see `locks.hold`.

    Args:
      wait: Whether to wait for another run in the folder.
      say: Called with a line of text before waiting.
      waiting: See `locks.hold`.

    Raises:
      UsageError: Another run holds the lock and `wait` is false, or the folder
        cannot be written, or not all processes see it.
    """
    with contextlib.ExitStack() as stack:

      def take():
        self._make()
        run_lock = locks.hold(
          self.path / '.lock', wait=wait, say=say, waiting=waiting
        )
        self._held = stack.enter_context(run_lock)
        self._texts.clear()

      distributed.first(take)
      try:
        if distributed.count() > 1:
          self._check_shared()
        yield
      finally:
        self._held = None

  def _check_shared(self) -> None:
    path = self.path / _SHARED

    def write():
      token = uuid.uuid4().hex
      path.write_text(token)
      return token

    def look():
      for _ in range(_LATE_S):
        if path.exists() and path.read_text() == written:
          return
        time.sleep(1)
      raise errors.UsageError(
        f'{distributed.name()} does not see {self.path} as process 0 writes '
        'it; several processes need folders on storage that all share: give '
        'such a --workdir and config.cache_dir'
      )

    written = distributed.first(write)
    distributed.together(look)
    distributed.first(path.unlink)

  def set_aside_cut(self) -> None:
    """Renames the run's JSON files that are cut off, with a line for each.

    A full disk or a loss of power may leave such files; the run makes them
    again.

    Raises:
      UsageError: It is config.json, and the folder holds more of a run.
    """
    distributed.first(self._set_aside_cut)

  def _set_aside_cut(self) -> None:
    if self._in_bucket or not (self.path / 'config.json').exists():
      return
    others = self.path.glob(f'{of_teacher("*")}.json')
    for name in (*_JSON, *(path.name for path in others)):
      path = self.path / name
      # What is no regular file is refused where it is read; a pipe would wait.
      if not os.path.isfile(path) or _is_json(path.read_bytes()):
        continue
      if name == 'config.json' and self._begun():
        raise errors.UsageError(
          f'{path} is cut off, so that nobody knows what run this is; put it '
          'back from a copy, or give another --workdir'
        )
      distributed.say(f'{path} is cut off; it is now {durable.set_aside(path)}')

  def _begun(self) -> bool:
    """Returns whether the folder holds more than the start of a run leaves."""
    return self.path.exists() and any(
      p.name not in _OWN and not p.name.startswith('config.json')
      for p in self.path.iterdir()
    )

  def guard(self) -> None:
    """Checks that the lock is still held; every write calls this first.

    Raises:
      RunError: Another run has taken over the lock (in a bucket).
    """
    if self._held is not None:
      self._held.check()

  def guarded(self, ask: Callable[[], bool]) -> Callable[[], bool]:
    """Returns a function that calls `guard` and then returns `ask()`."""

    def asked() -> bool:
      self.guard()
      return ask()

    return asked

  def _make(self) -> None:
    # A bucket has no folders, and gcsfs would create the bucket.
    if self._in_bucket:
      return
    try:
      self.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
      raise errors.UsageError(
        f'cannot make the run folder {self.path}: {error.strerror}; give a '
        'writable --workdir'
      ) from error

  def read(self, name: str) -> Any:
    """Returns the content of a JSON file, or None if it does not exist.

    Args:
      name: The file's name in the folder.

    Raises:
      UsageError: It is damaged, or a field has a wrong type; see `stored`.
    """
    return distributed.first(lambda: self.read_alone(name))

  def read_alone(self, name: str) -> Any:
    """Does what `read` does, for code that only process 0 runs."""
    return stored.read_if_there(self.path / name)

  def write(self, name: str, value: Any) -> None:
    """Writes a JSON file atomically.

    Args:
      name: The file's name in the folder.
      value: The JSON value to write.

    Raises:
      UsageError: The folder cannot be written.
      Refused: The storage is full or read-only; the file is as before.
    """
    distributed.first(lambda: self.write_alone(name, value))

  def write_alone(self, name: str, value: Any) -> None:
    """Writes a JSON file atomically, for code that only process 0 runs.

    Args:
      name: The file's name in the folder.
      value: The JSON value to write.

    Raises:
      UsageError: The folder cannot be written.
      Refused: The storage is full or read-only; the file is as before.
    """
    self._make()
    self._write_text(name, json.dumps(value, indent=2) + '\n')

  def _write_text(self, name: str, text: str) -> None:
    self.guard()
    path = self.path / name
    try:
      if self._in_bucket:  # writes of objects are atomic
        path.write_text(text)
      else:
        durable.write(path, text.encode())
    except OSError as error:
      raise durable.refused(path, error) from error

  def write_bytes(self, name: str, content: bytes) -> None:
    """Writes a file; the write is atomic in a bucket only."""
    self.guard()
    (self.path / name).write_bytes(content)

  def append(self, name: str, text: str) -> None:
    """Appends text to a file; it is in the file when this returns.

    A bucket cannot append, so the whole file is written again. Text whose
    writing failed is not in the next: whoever tries again gives it again.

    Raises:
      UsageError: The folder cannot be written.
      Refused: The storage is full or read-only; the file is as before.
    """
    if self._in_bucket:
      path = self.path / name
      if name not in self._texts:
        self._texts[name] = path.read_text() if path.exists() else ''
      self.replace(name, self._texts[name] + text)
      return
    self.guard()
    try:
      durable.append(self.path / name, text.encode())
    except OSError as error:
      raise durable.refused(self.path / name, error) from error

  def replace(self, name: str, text: str) -> None:
    """Writes a file atomically; `append` may then add to it."""
    self._write_text(name, text)
    self._texts[name] = text


def _is_json(content: bytes) -> bool:
  try:
    json.loads(content)
  except (ValueError, RecursionError):
    return False
  return True


def _joined(config: dict[str, Any], data_facts: Any) -> dict[str, Any]:
  """Returns the content of config.json."""
  return {**config, 'data_facts': json.loads(json.dumps(data_facts))}


def _adopts(old: dict[str, Any], new: dict[str, Any]) -> bool:
  """Returns whether an older run has no fingerprint, and gets the new one."""
  there, here = old.get('data_facts') or {}, new['data_facts']
  return bool(here.get('fingerprint')) and not there.get('fingerprint')


def _depends_on_epochs(value: Any) -> bool:
  if isinstance(value, dict):
    is_cosine = value.get('kind') == 'cosine'
    return is_cosine or any(_depends_on_epochs(v) for v in value.values())
  return isinstance(value, list) and any(_depends_on_epochs(v) for v in value)


def cache_root(cache_dir: str) -> epath.Path:
  """Returns the folder of the networks and programs that all runs share.

  Args:
    cache_dir: The value of `config.cache_dir`; '' stands for $KD_JAX_CACHE if
      that is set, else for ~/.cache/kd_jax.
  """
  folder = cache_dir or os.environ.get('KD_JAX_CACHE')
  return epath.Path(folder or '~/.cache/kd_jax').expanduser()


class Records:
  """The records of metrics.jsonl: one JSON object per line, by 'step'.

  Between the records of epochs and evaluations, with means as 'train/<name>',
  there are points, with the means of a few steps as 'step/<name>'.
  """

  def __init__(self, folder: Folder):
    """Stores the folder; nothing is read or written yet."""
    self._folder = folder

  def read(self, *, points: bool = False) -> list[dict[str, Any]]:
    """Returns all complete records, in the order of the file.

    Args:
      points: Whether the points are among them.

    Raises:
      UsageError: A line holds something else than a record.
    """
    path = self._folder.path / _METRICS
    if not path.exists():
      return []
    text = stored.content(path).decode(errors='replace')
    return [
      record
      for record in stored.records(text, str(path))
      if points or not is_point(record)
    ]

  def truncate(self, step: int) -> list[dict[str, Any]]:
    """Removes the records after `step`, and returns the others without points.

    The points up to `step` stay in the file.
    """
    kept = [r for r in self.read(points=True) if r['step'] <= step]
    text = ''.join(json.dumps(record) + '\n' for record in kept)
    self._folder.replace(_METRICS, text)
    return [record for record in kept if not is_point(record)]

  def append(self, *records: dict[str, Any]) -> None:
    """Appends records; they are in the file when this returns."""
    text = ''.join(json.dumps(record) + '\n' for record in records)
    self._folder.append(_METRICS, text)


def is_point(record: dict[str, Any]) -> bool:
  """Returns whether a record of metrics.jsonl is a point."""
  return 'step/total' in record and 'train/total' not in record


def now() -> float:
  """Returns the seconds of a monotonic clock."""
  return time.monotonic()
