"""Strict, asynchronous checkpoints of pytrees, by Orbax.

A tree is saved as a flat mapping from its leaves' paths to arrays, so that
what is on disk can be compared with what is wanted, leaf by leaf, before
anything is read: Orbax's own restoring takes part of a tree that does not fit,
and casts dtypes, without a word.
"""

from collections.abc import Callable, Iterator
import contextlib
import functools
import time
from typing import Any

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from kd_jax import errors, pytrees
from kd_jax.runtime import distributed, sharding

# How many lines of a difference are worth reading.
_MOST_ROWS = 20


# Seconds before each new try of a save that must not fail.
_PAUSES_S = (1.0, 5.0, 15.0)

# The leaf that holds the digest of all others.
DIGEST = 'digest'


class Damaged(errors.RunError):
  """A checkpoint that cannot be read, or is not what was written."""


class SaveFailed(errors.RunError):
  """A checkpoint that could not be written; the older ones are there still."""


class Checkpoints:
  """The checkpoints of one folder, the newest ones kept.

  Attributes:
    folder: holds one sub-folder a step.
  """

  def __init__(
    self, folder: epath.PathLike, *, keep: int = 2, read_only: bool = False
  ):
    """Opens the folder, and makes it unless it is only read.

    Args:
      folder: one that nobody else writes, unless it is only read.
      keep: how many of the newest checkpoints stay.
      read_only: change nothing, and do not clean up.

    Raises:
      UsageError: where a folder to read is not there.
    """
    self.folder = epath.Path(folder)
    if read_only and not self.folder.exists():
      raise errors.UsageError(f'{self.folder} is not there')
    self._saving: int | None = None  # a step whose save may not be complete
    self._manager = ocp.CheckpointManager(
      self.folder,
      item_handlers=ocp.StandardCheckpointHandler(),
      options=ocp.CheckpointManagerOptions(
        preservation_policy=checkpoint_managers.LatestN(n=keep),
        cleanup_tmp_directories=not read_only,
        create=not read_only,
        read_only=read_only,
      ),
    )

  def steps(self) -> list[int]:
    """The complete steps, newest first; not one that is still being saved."""
    found = set(self._manager.all_steps()) - {self._saving}
    return sorted(found, reverse=True)

  def latest(self) -> int | None:
    """The newest complete step, or None."""
    return next(iter(self.steps()), None)

  def save(self, step: int, tree: Any) -> None:
    """Starts saving; the arrays may be changed or donated at once.

    Raises:
      SaveFailed: where this save, or the one before, failed.
    """
    self.wait()
    if step in self._manager.all_steps():
      return
    flat = _flat(tree)
    where = next(iter(flat.values())).sharding
    flat[DIGEST] = sharding.put(np.uint32(_digest(flat)), where)
    self._saving = step
    with self._may_fail():
      self._manager.save(step, args=ocp.args.StandardSave(flat))

  def save_now(
    self, step: int, tree: Any, failed: Callable[[SaveFailed], None]
  ) -> None:
    """Saves, and returns when it is complete; tries a few times.

    Args:
      step: of the tree.
      tree: arrays.
      failed: hears of a try that failed before there is another.

    Raises:
      SaveFailed: where it fails every time.
    """
    for pause in (*_PAUSES_S, None):
      try:
        self.save(step, tree)
        self.wait()
        return
      except SaveFailed as error:
        if pause is None:
          raise
        failed(error)
      time.sleep(pause)

  def check(self) -> None:
    """Raises SaveFailed where a save has ended so; does not wait for one."""
    if self._saving is None:
      return
    with self._may_fail():
      self._manager.check_for_errors()
    if not self._manager.is_saving_in_progress():
      self.wait()

  def wait(self) -> None:
    """Returns when the last save is complete.

    Raises:
      SaveFailed: where it failed.
    """
    with self._may_fail():
      self._manager.wait_until_finished()
    self._saving = None

  @contextlib.contextmanager
  def _may_fail(self) -> Iterator[None]:
    # Orbax, TensorStore and the file system raise whatever they met.
    try:
      yield
    except Exception as error:
      step, self._saving = self._saving, None
      if distributed.count() == 1:
        self._manager.reload()  # it has dropped what it would have deleted
      line = str(error).strip().partition('\n')[0][:200]
      raise SaveFailed(
        f'saving checkpoint {self.folder / str(step)} failed: '
        f'{type(error).__name__}: {line}'
      ) from error

  def set_aside(self, step: int) -> epath.Path:
    """Moves a damaged checkpoint out of the way; returns where it is now."""
    place = self.folder.parent / f'damaged-{step}'

    def move():
      if place.exists():
        place.rmtree()
      (self.folder / str(step)).rename(place)

    distributed.first(move)
    self._manager.reload()
    return place

  def restore(self, step: int | None, like: Any) -> Any:
    """The tree of a step, on the devices that `like` names.

    Args:
      step: what `latest` gave.
      like: arrays, or `jax.ShapeDtypeStruct`s with shardings.

    Raises:
      UsageError: where there is no step, or where paths, shapes or dtypes
        differ, with a table.
      Damaged: where it cannot be read, or is not what was written.
    """
    if step is None:
      raise errors.UsageError(f'{self.folder} holds no complete checkpoint')
    where = str(self.folder / str(step))
    wanted = _flat(like)
    found = self._read(where, self._manager.item_metadata, step)
    if not found:
      raise Damaged(f'checkpoint {where} is damaged: it has no metadata')
    asked = {name: _abstract(x) for name, x in wanted.items()}
    if DIGEST in found:  # what was written by older versions has none
      any_leaf = next(iter(asked.values()))
      asked[DIGEST] = jax.ShapeDtypeStruct(
        (), jnp.uint32, sharding=any_leaf.sharding
      )
    check(found, asked, where)
    args = ocp.args.StandardRestore(asked)
    flat = self._read(
      where, lambda step: self._manager.restore(step, args=args), step
    )
    stored = flat.pop(DIGEST, None)
    if stored is not None and _digest(flat) != int(stored):
      raise Damaged(
        f'checkpoint {where} is damaged: its arrays are not those that were '
        'written (their digests differ)'
      )
    structure = jax.tree.structure(like)
    return jax.tree.unflatten(structure, [flat[name] for name in wanted])

  def _read(self, where: str, read: Callable[[int], Any], step: int) -> Any:
    # Orbax and TensorStore raise whatever they met, bare `Exception` included.
    try:
      return read(step)
    except Exception as error:
      line = str(error).strip().partition('\n')[0][:200]
      raise Damaged(
        f'checkpoint {where} is damaged: {type(error).__name__}: {line}'
      ) from error

  def close(self) -> None:
    """Completes the last save and ends the manager's threads.

    Raises:
      SaveFailed: where it failed.
    """
    try:
      self.wait()
    finally:
      self._manager.close()


def save_only(folder: epath.PathLike, step: int, tree: Any) -> None:
  """Saves a tree as the only one of its folder; complete when it returns.

  Raises:
    SaveFailed: where it fails every time, or once with several processes.
  """
  place = epath.Path(folder)
  distributed.first(lambda: place.rmtree() if place.exists() else None)
  checkpoints = Checkpoints(folder, keep=1)

  def failed(error: SaveFailed) -> None:
    if distributed.count() > 1:
      raise error
    distributed.say(f'{error}; trying again')

  try:
    checkpoints.save_now(step, tree, failed)
  finally:
    checkpoints.close()


def check(found: Any, wanted: dict[str, Any], where: str) -> None:
  """Compares a checkpoint's metadata with the leaves that are wanted.

  Args:
    found: leaf path to anything with shape and dtype, or None.
    wanted: likewise.
    where: the checkpoint, for the message.

  Raises:
    UsageError: where they differ, with one line for each difference.
  """

  def fact(tree: Any, name: str) -> str:
    if name not in tree:
      return 'missing'
    return f'{tree[name].dtype}{list(tree[name].shape)}'

  found = dict(found or {})
  rows = [
    f'  {name}: checkpoint {fact(found, name)}, wanted {fact(wanted, name)}'
    for name in sorted({*found, *wanted})
    if fact(found, name) != fact(wanted, name)
  ]
  if rows:
    more = len(rows) - _MOST_ROWS
    rows = rows[:_MOST_ROWS] + ([f'  and {more} more'] if more > 0 else [])
    raise errors.UsageError(
      f'checkpoint {where} does not fit these networks and this method; '
      'nothing was restored:\n' + '\n'.join(rows)
    )


def _flat(tree: Any) -> dict[str, Any]:
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {pytrees.path_name(path): leaf for path, leaf in leaves}


def _digest(flat: dict[str, jax.Array]) -> int:
  """A checksum of all bits, 32 of them, whatever devices they lie on."""
  each = [digest_of(flat[name]) for name in sorted(flat)]
  return functools.reduce(
    lambda total, one: (total * 31 + int(one)) % 2**32, each, 0
  )


@jax.jit
def digest_of(x: jax.Array) -> jax.Array:
  """An array's: a sum of integers, which does not depend on their order.

  An odd factor for each place makes a swap show.
  """
  if x.dtype == jnp.bool_:
    x = x.astype(jnp.uint8)
  kind = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]
  bits = jax.lax.bitcast_convert_type(x, kind).astype(jnp.uint32).ravel()
  place = jnp.arange(bits.size, dtype=jnp.uint32) * 2 + 1
  return (bits * place).sum(dtype=jnp.uint32)


def _abstract(x: Any) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
