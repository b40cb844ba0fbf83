"""The folder of a run: what it holds, and who may write into it.

config.json     the resolved configuration
metrics.jsonl   a line for each logged step and evaluation
events.*        the same for TensorBoard
log.txt         what a person saw
curves.png      learning curves
checkpoints/    the training state, the newest two
teacher/        the teacher's variables, teacher.json: its accuracy
student/        the trained student's variables, where it stands alone; else
deployed/       what was trained of it (SimKD's projector, say)
result.json     there once the run is finished
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
from kd_jax.runtime import distributed, gcs, locks

# What a run killed at its very start leaves.
_SHARED = '.shared'
_LATE_S = 30
_OWN = ('.lock', _SHARED, 'config.json.part')

_METRICS = 'metrics.jsonl'


class Folder:
  """A run's folder, on a disk or in a bucket (gs://bucket/...).

  Where there are several processes, all of them call its methods together;
  process 0 reads and writes, and tells the others.

  Attributes:
    path: where it is.
  """

  def __init__(self, path: epath.PathLike):
    """Names the folder; nothing is read or written yet.

    Raises:
      UsageError: for a bucket that is not one of `gs://`.
    """
    text = os.fspath(path)
    self._in_bucket = gcs.is_bucket(text)
    if self._in_bucket:
      gcs.prepare(text)
    else:
      text = os.path.abspath(text)
    self.path = epath.Path(text)
    self._held: locks.Held | None = None
    self._texts: dict[str, str] = {}  # of a bucket's files that grow

  def claim(self, config: dict[str, Any], data_facts: Any) -> None:
    """Makes the folder this configuration's, or sees that it already is.

    The number of epochs may grow, unless a schedule depends on it.

    Args:
      config: The configuration as `config.plain` gives it.
      data_facts: What identifies the data, as JSON can hold it.

    Raises:
      UsageError: It holds another configuration, or cannot be written.
    """
    new = {**config, 'data_facts': json.loads(json.dumps(data_facts))}
    distributed.first(lambda: self._claim(new))

  def _claim(self, new: dict[str, Any]) -> None:
    old = self._read('config.json')
    if old is not None:
      self._compare(config_lib.determining(old), config_lib.determining(new))
      if old['epochs'] == new['epochs']:
        return
    elif self.path.exists() and any(
      p.name not in _OWN for p in self.path.iterdir()
    ):
      raise errors.UsageError(
        f'{self.path} holds files but no run; give an empty or new --workdir'
      )
    self.write_alone('config.json', new)

  def _compare(self, old: dict[str, Any], new: dict[str, Any]) -> None:
    epochs_old, epochs_new = old.pop('epochs', 0), new.pop('epochs')
    own = {key: new[key] for key in ('optimizer', 'weights')}
    lines = config_lib.difference(old, new)
    if epochs_new != epochs_old and _depends_on_epochs(own):
      lines.append(
        f'config.epochs: {epochs_old} there, {epochs_new} here, and a cosine '
        'schedule depends on it'
      )
    elif epochs_new < epochs_old:
      lines.append(
        f'config.epochs: {epochs_old} there, {epochs_new} here; it may only '
        'grow'
      )
    if lines:
      raise errors.UsageError(
        f'{self.path} holds a run of another configuration; give another '
        '--workdir, or none:\n' + '\n'.join(f'  {line}' for line in lines)
      )

  @contextlib.contextmanager
  def lock(
    self, *, wait: bool, say: Callable[[str], None] = print
  ) -> Iterator[None]:
    """Keeps other runs out; see `locks.hold`.

    Raises:
      UsageError: also where not all processes see the folder.
    """
    with contextlib.ExitStack() as held:

      def take():
        self._make()
        own = locks.hold(self.path / '.lock', wait=wait, say=say)
        self._held = held.enter_context(own)
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
      for _ in range(_LATE_S):  # a network's file system may be late
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

  def guard(self) -> None:
    """Sees that the lock is still held; every write here begins with it.

    Raises:
      RunError: where another run has taken it over (in a bucket).
    """
    if self._held is not None:
      self._held.check()

  def guarded(self, ask: Callable[[], bool]) -> Callable[[], bool]:
    """The question `ask`, which also sees that the lock is still held."""

    def asked() -> bool:
      self.guard()
      return ask()

    return asked

  def _make(self) -> None:
    if self._in_bucket:  # gcsfs would make the bucket
      return
    try:
      self.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
      raise errors.UsageError(
        f'cannot make the run folder {self.path}: {error.strerror}; give a '
        'writable --workdir'
      ) from error

  def read(self, name: str) -> Any:
    """The content of a JSON file, or None where there is none."""
    return distributed.first(lambda: self._read(name))

  def _read(self, name: str) -> Any:
    path = self.path / name
    return json.loads(path.read_text()) if path.exists() else None

  def write(self, name: str, value: Any) -> None:
    """Writes a JSON file, all or nothing.

    Raises:
      UsageError: where the folder cannot be written.
    """
    distributed.first(lambda: self.write_alone(name, value))

  def write_alone(self, name: str, value: Any) -> None:
    """As `write`, within what process 0 does without the others."""
    self._make()
    self._write_text(name, json.dumps(value, indent=2) + '\n')

  def _write_text(self, name: str, text: str) -> None:
    self.guard()
    path = self.path / name
    try:
      if self._in_bucket:  # an object is there whole or not at all
        path.write_text(text)
      else:
        part = self.path / f'{name}.part'
        part.write_text(text)
        part.replace(path)
    except OSError as error:
      raise errors.UsageError(
        f'cannot write {path}: {error.strerror or error}'
      ) from error

  def write_bytes(self, name: str, content: bytes) -> None:
    """Writes a file; in a bucket, all or nothing."""
    self.guard()
    (self.path / name).write_bytes(content)

  def append(self, name: str, text: str) -> None:
    """Adds text to a file; it is there when this returns.

    A bucket cannot append: the file is written anew.
    """
    if self._in_bucket:
      path = self.path / name
      if name not in self._texts:
        self._texts[name] = path.read_text() if path.exists() else ''
      self._texts[name] += text
      self._write_text(name, self._texts[name])
      return
    self.guard()
    with (self.path / name).open('a') as file:
      file.write(text)

  def replace(self, name: str, text: str) -> None:
    """Writes a file to which `append` then adds, all or nothing."""
    self._texts[name] = text
    self._write_text(name, text)


def _depends_on_epochs(value: Any) -> bool:
  if isinstance(value, dict):
    own = value.get('kind') == 'cosine'
    return own or any(_depends_on_epochs(v) for v in value.values())
  return isinstance(value, list) and any(_depends_on_epochs(v) for v in value)


def cache_root(cache_dir: str) -> epath.Path:
  """Returns where all runs share networks and compiled programs.

  Args:
    cache_dir: As in `config.cache_dir`; '' is $KD_JAX_CACHE, or else
      ~/.cache/kd_jax.
  """
  home = cache_dir or os.environ.get('KD_JAX_CACHE')
  return epath.Path(home or '~/.cache/kd_jax').expanduser()


class Records:
  """metrics.jsonl: one JSON object a line, ordered by 'step'."""

  def __init__(self, folder: Folder):
    """Names the file."""
    self._folder = folder

  def read(self) -> list[dict[str, Any]]:
    """Every complete record."""
    path = self._folder.path / _METRICS
    if not path.exists():
      return []
    found = []
    for line in path.read_text().splitlines():
      with contextlib.suppress(json.JSONDecodeError):  # cut off by a kill
        found.append(json.loads(line))
    return found

  def truncate(self, step: int) -> list[dict[str, Any]]:
    """Drops what was logged after `step`, and returns the rest."""
    kept = [record for record in self.read() if record['step'] <= step]
    text = ''.join(json.dumps(record) + '\n' for record in kept)
    self._folder.replace(_METRICS, text)
    return kept

  def append(self, record: dict[str, Any]) -> None:
    """Adds a record; it is in the file when this returns."""
    self._folder.append(_METRICS, json.dumps(record) + '\n')


def now() -> float:
  """Seconds of a clock that only grows."""
  return time.monotonic()
