"""Where the scalars of a run go: what a writer must do, and the two of old.

A writer gets what metrics.jsonl gets. `loggers` makes those that a user names.
"""

from collections.abc import Mapping, Sequence
import pathlib
import tempfile
from typing import Any, NamedTuple, Protocol, runtime_checkable

import tensorboardX

from kd_jax.runtime import gcs, run_dir


class About(NamedTuple):
  """What a writer is told of its run.

  Attributes:
    folder: The run's folder. A writer may keep a file of its own there; of the
      methods of `Folder` it calls `read_alone` and `write_alone` only.
    config: The configuration as dicts, lists, numbers and strings.
    tags: Short texts by which runs are found: 'method', 'recipe' and 'kd_jax',
      the version; '' where there is none.
  """

  folder: run_dir.Folder
  config: Mapping[str, Any] = {}
  tags: Mapping[str, str] = {}


@runtime_checkable
class Writer(Protocol):
  """What writes the scalars of a run somewhere.

  `open` comes first and `close` last; only process 0 calls them. A run that was
  stopped or killed begins again at its newest checkpoint, in a new process with
  a new writer, and does the steps after the checkpoint once more. So a writer
  has these duties:

  - After `open` with a step above 0 it goes on with what the earlier start
    wrote, and begins nothing new.
  - No step is there twice. Values after that step which an earlier start wrote
    are dropped, or, where that cannot be done, kept, and not written again: a
    run repeats its steps with the same values.
  - What `flush` returns from is kept when the process is killed, as far as the
    writer can see to that.

  It may be slow and it may raise: a writer that a user names has a thread of
  its own, which makes all calls. An error ends the writer and not the run.
  """

  def open(
    self, about: About, step: int, past: Sequence[Mapping[str, Any]]
  ) -> None:
    """Begins to write, or goes on.

    Args:
      about: The facts of the run.
      step: The step from which the run continues; 0 for a new run.
      past: The records up to that step in metrics.jsonl, oldest first: 'step'
        and the values. A writer that lacks some can write them now.
    """

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Takes the scalars of a step; it may keep them until `flush`.

    Args:
      step: The number of training steps done.
      values: The values by name, such as 'train/total', 'step/total' and
        'test/top1'; 'epoch' is always there.
    """

  def flush(self) -> None:
    """Writes what `scalars` took; called every epoch and every 30 seconds."""

  def close(self, result: Mapping[str, Any] | None) -> None:
    """Writes what is left, and ends.

    Args:
      result: The content of result.json; None if the run stopped before its
        end.
    """


class Jsonl:
  """A writer of metrics.jsonl, which every run has: resuming reads it."""

  def __init__(self) -> None:
    """Opens nothing yet."""
    self._unwritten: list[dict[str, Any]] = []

  def open(
    self, about: About, step: int, past: Sequence[Mapping[str, Any]]
  ) -> None:
    """Drops the records after `step`; see `Writer`."""
    self._records = run_dir.Records(about.folder)
    self._records.truncate(step)

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Takes the scalars of a step; see `Writer`."""
    self._unwritten.append({'step': step, **values})

  def flush(self) -> None:
    """Writes them; they are in the file when this returns."""
    self._records.append(*self._unwritten)
    self._unwritten = []

  def close(self, result: Mapping[str, Any] | None) -> None:
    """Writes what is left; see `Writer`."""
    if self._unwritten:
      self.flush()


class TensorBoard:
  """A writer of TensorBoard's events in the run's folder."""

  def __init__(self) -> None:
    """Opens nothing yet."""
    self._local: tempfile.TemporaryDirectory[str] | None = None
    self._is_new = False  # a value came since the last `flush`

  def open(
    self, about: About, step: int, past: Sequence[Mapping[str, Any]]
  ) -> None:
    """Opens a new file, which hides what older ones have after `step`."""
    self._folder = about.folder
    place = str(self._folder.path)
    # A bucket cannot append: events are written locally and then copied.
    if gcs.is_bucket(place):
      self._local = tempfile.TemporaryDirectory(prefix='kd_jax-events-')
      place = self._local.name
    self._board = tensorboardX.SummaryWriter(
      place, purge_step=step + 1 if step else 0
    )

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Takes the scalars of a step; see `Writer`."""
    self._is_new = True
    for name, value in values.items():
      self._board.add_scalar(name, value, step)

  def flush(self) -> None:
    """Writes them to the file; see `Writer`."""
    self._is_new = False
    self._board.flush()
    if self._local is not None:
      for file in pathlib.Path(self._local.name).iterdir():
        self._folder.write_bytes(file.name, file.read_bytes())

  def close(self, result: Mapping[str, Any] | None) -> None:
    """Writes what is left, and closes the file; see `Writer`."""
    if self._is_new:
      self.flush()
    self._board.close()
    if self._local is not None:
      self._local.cleanup()
