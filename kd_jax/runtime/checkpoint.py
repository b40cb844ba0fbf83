"""Strict, asynchronous checkpoints of pytrees, by Orbax.

A tree is saved as a flat mapping from leaf paths to arrays. Before any array is
read, the leaves on disk are compared with the leaves that are wanted, because
Orbax silently restores a part of a tree that does not fit, and silently casts
dtypes.
"""

from collections.abc import Callable, Iterator
import contextlib
import errno
import functools
import re
import time
from typing import Any

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from kd_jax import errors, pytrees
from kd_jax.runtime import distributed, durable, sharding

# The most lines that an error message lists.
_MOST_ROWS = 20


# Seconds before each retry of a save that must not fail.
_PAUSES_S = (1.0, 5.0, 15.0)

# The leaf that holds the digest of all other leaves.
DIGEST = 'digest'


# Faults in reading that say nothing of what was to be read.
_OF_THE_MACHINE = {
  errno.EACCES, errno.EAGAIN, errno.EINTR, errno.EMFILE, errno.ENFILE,
  errno.ENOBUFS, errno.ENOMEM, errno.EPERM, errno.ESTALE, errno.ETIMEDOUT,
}  # fmt: skip
_PASSING = re.compile(
  r'\b(RESOURCE_EXHAUSTED|UNAVAILABLE|DEADLINE_EXCEEDED|PERMISSION_DENIED'
  r'|UNAUTHENTICATED):'
)


class Damaged(errors.RunError):
  """A checkpoint cannot be read, or differs from what was written."""


class SaveFailed(errors.RunError):
  """A checkpoint could not be written; older checkpoints are kept."""


class Checkpoints:
  """A folder of checkpoints, of which only the newest are kept.

  Attributes:
    folder: The folder; it has one sub-folder per step.
  """

  def __init__(
    self, folder: epath.PathLike, *, keep: int = 2, read_only: bool = False
  ):
    """Opens the folder, and creates it unless `read_only`.

    Args:
      folder: The folder. Unless `read_only`, no other run may write to it.
      keep: The number of newest checkpoints to keep.
      read_only: Whether to leave the folder unchanged, unfinished checkpoints
        included.

    Raises:
      UsageError: The folder is to be read only and does not exist.
    """
    self.folder = epath.Path(folder)
    if read_only and not self.folder.exists():
      raise errors.UsageError(f'{self.folder} is not there')
    # The step whose save may still be incomplete.
    self._saving: int | None = None
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
    """Returns the steps with a complete checkpoint, newest first."""
    complete = set(self._manager.all_steps()) - {self._saving}
    return sorted(complete, reverse=True)

  def latest(self) -> int | None:
    """Returns the newest step with a complete checkpoint, or None."""
    return next(iter(self.steps()), None)

  def save(self, step: int, tree: Any) -> None:
    """Starts saving a tree; its arrays may be donated once this returns.

    Args:
      step: The number of the checkpoint. A step that exists is not saved again.
      tree: A pytree of arrays.

    Raises:
      SaveFailed: This save or the previous one failed.
    """
    self.wait()
    if step in self._manager.all_steps():
      return
    if distributed.is_first() and (latest := self.latest()) is not None:
      # This save deletes an older one; a loss of power must leave one whole.
      durable.sync(self.folder / str(latest))
    leaves = _flat(tree)
    leaf_sharding = next(iter(leaves.values())).sharding
    leaves[DIGEST] = sharding.put(np.uint32(_digest(leaves)), leaf_sharding)
    self._saving = step
    with self._may_fail():
      self._manager.save(step, args=ocp.args.StandardSave(leaves))

  def save_now(
    self, step: int, tree: Any, failed: Callable[[SaveFailed], None]
  ) -> None:
    """Saves a tree, retries if that fails, and waits for completion.

    Args:
      step: The number of the checkpoint.
      tree: A pytree of arrays.
      failed: Called with the error before each retry.

    Raises:
      SaveFailed: Every attempt failed.
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
    """Reports a failed save, without waiting for a save in progress.

    Raises:
      SaveFailed: The last save failed.
    """
    if self._saving is None:
      return
    with self._may_fail():
      self._manager.check_for_errors()
    if not self._manager.is_saving_in_progress():
      self.wait()

  def wait(self) -> None:
    """Waits until the last save is complete.

    Raises:
      SaveFailed: The last save failed.
    """
    with self._may_fail():
      self._manager.wait_until_finished()
    self._saving = None

  @contextlib.contextmanager
  def _may_fail(self) -> Iterator[None]:
    # Orbax, TensorStore and the file system share no class of errors.
    try:
      yield
    except Exception as error:
      step, self._saving = self._saving, None
      if distributed.count() == 1:
        # The manager no longer lists the steps that this save would have
        # deleted.
        self._manager.reload()
      line = str(error).strip().partition('\n')[0][:200]
      raise SaveFailed(
        f'saving checkpoint {self.folder / str(step)} failed: '
        f'{type(error).__name__}: {line}'
      ) from error

  def set_aside(self, step: int) -> epath.Path:
    """Moves a damaged checkpoint out of the folder and returns its new path.

    Args:
      step: The step of the checkpoint.

    Returns:
      `damaged-STEP` beside the folder; an earlier one there is replaced.
    """
    target = self.folder.parent / f'damaged-{step}'

    def move():
      if target.exists():
        target.rmtree()
      (self.folder / str(step)).rename(target)

    distributed.first(move)
    self._manager.reload()
    return target

  def restore(self, step: int | None, like: Any) -> Any:
    """Returns the tree of a checkpoint, with the shardings of `like`.

    Args:
      step: The step, as returned by `latest`.
      like: A pytree of arrays, or of `jax.ShapeDtypeStruct`s with shardings,
        whose structure, shapes and dtypes the checkpoint must have.

    Raises:
      UsageError: The step is None, or paths, shapes or dtypes differ; the
        message lists the differences.
      Damaged: The checkpoint cannot be read, or differs from what was written.
      RunError: It cannot be read now, by no fault of its own.
    """
    if step is None:
      raise errors.UsageError(f'{self.folder} holds no complete checkpoint')
    path = str(self.folder / str(step))
    wanted = _flat(like)
    stored_leaves = self._read(path, self._manager.item_metadata, step)
    if not stored_leaves:
      raise Damaged(f'checkpoint {path} is damaged: it has no metadata')
    requested = {name: _abstract(x) for name, x in wanted.items()}
    if DIGEST in stored_leaves:  # checkpoints of older versions have no digest
      any_leaf = next(iter(requested.values()))
      requested[DIGEST] = jax.ShapeDtypeStruct(
        (), jnp.uint32, sharding=any_leaf.sharding
      )
    check(stored_leaves, requested, path)
    args = ocp.args.StandardRestore(requested)
    leaves = self._read(
      path, lambda step: self._manager.restore(step, args=args), step
    )
    stored_digest = leaves.pop(DIGEST, None)
    if stored_digest is not None and _digest(leaves) != int(stored_digest):
      raise Damaged(
        f'checkpoint {path} is damaged: its arrays are not those that were '
        'written (their digests differ)'
      )
    structure = jax.tree.structure(like)
    return jax.tree.unflatten(structure, [leaves[name] for name in wanted])

  def _read(self, where: str, read: Callable[[int], Any], step: int) -> Any:
    # Orbax and TensorStore share no class of errors; some raise `Exception`.
    try:
      return read(step)
    except Exception as error:
      line = str(error).strip().partition('\n')[0][:200]
      if _is_the_machines(error):
        raise errors.RunError(
          f'checkpoint {where} cannot be read now: {type(error).__name__}: '
          f'{line}; it was left as it is, and the same command tries again '
          '(move it away to go on from an older one)'
        ) from error
      raise Damaged(
        f'checkpoint {where} is damaged: {type(error).__name__}: {line}'
      ) from error

  def close(self) -> None:
    """Completes the last save and ends the manager's threads.

    Raises:
      SaveFailed: The last save failed.
    """
    try:
      self.wait()
    finally:
      self._manager.close()


def _is_the_machines(error: Exception) -> bool:
  """Returns whether a fault in reading is not the file's.

  Another start may then read it. TensorStore tells such faults in its text
  alone.
  """
  if isinstance(error, OSError) and error.errno in _OF_THE_MACHINE:
    return True
  text = str(error)
  found = re.search(r'\bOS error (\d+)', text)
  if found and int(found[1]) in _OF_THE_MACHINE:
    return True
  return isinstance(error, MemoryError) or bool(_PASSING.search(text))


def save_only(folder: epath.PathLike, step: int, tree: Any) -> None:
  """Replaces a folder by a checkpoint of one tree, complete on return.

  Args:
    folder: The folder; what it holds is deleted.
    step: The number of the checkpoint.
    tree: A pytree of arrays.

  Raises:
    SaveFailed: Every attempt failed; with several processes there is only one.
  """
  path = epath.Path(folder)
  distributed.first(lambda: path.rmtree() if path.exists() else None)
  checkpoints = Checkpoints(folder, keep=1)

  def failed(error: SaveFailed) -> None:
    if distributed.count() > 1:
      raise error
    distributed.say(f'{error}; trying again')

  try:
    checkpoints.save_now(step, tree, failed)
  finally:
    checkpoints.close()
  if distributed.is_first():
    durable.sync(path)


def check(found: Any, wanted: dict[str, Any], where: str) -> None:
  """Compares a checkpoint's metadata with the leaves that are wanted.

  Args:
    found: The checkpoint's leaves: a mapping from leaf paths to objects with
      shape and dtype; None is an empty mapping.
    wanted: The wanted leaves, as such a mapping.
    where: The checkpoint's path, for the error message.

  Raises:
    UsageError: Paths, shapes or dtypes differ; the message lists the
      differences.
  """

  def fact(tree: Any, name: str) -> str:
    if name not in tree:
      return 'missing'
    return f'{tree[name].dtype}{list(tree[name].shape)}'

  found = dict(found or {})
  rows = [
    f'{name}: checkpoint {fact(found, name)}, wanted {fact(wanted, name)}'
    for name in sorted({*found, *wanted})
    if fact(found, name) != fact(wanted, name)
  ]
  if rows:
    more = len(rows) - _MOST_ROWS
    rows = rows[:_MOST_ROWS] + ([f'and {more} more'] if more > 0 else [])
    raise errors.UsageError(
      f'checkpoint {where} does not fit these networks and this method; '
      f'nothing was restored: {"; ".join(rows)}'
    )


def _flat(tree: Any) -> dict[str, Any]:
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {pytrees.path_name(path): leaf for path, leaf in leaves}


def _digest(flat: dict[str, jax.Array]) -> int:
  """Returns a 32-bit checksum of all arrays, independent of their sharding."""
  digests = [digest_of(flat[name]) for name in sorted(flat)]
  return functools.reduce(
    lambda total, one: (total * 31 + int(one)) % 2**32, digests, 0
  )


@jax.jit
def digest_of(x: jax.Array) -> jax.Array:
  """Returns an array's checksum, a u32 scalar.

  It is a sum of integers modulo 2^32, so it does not depend on the order of
  summation. Each element's bits are multiplied by an odd factor of its
  position, so that swapped elements change the sum.
  """
  if x.dtype == jnp.bool_:
    x = x.astype(jnp.uint8)
  bits_dtype = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]
  bits = jax.lax.bitcast_convert_type(x, bits_dtype).astype(jnp.uint32).ravel()
  factor = jnp.arange(bits.size, dtype=jnp.uint32) * 2 + 1
  return (bits * factor).sum(dtype=jnp.uint32)


def _abstract(x: Any) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
