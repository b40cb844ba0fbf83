"""A run's checkpoints: saving, retrying a failed save, resuming."""

from collections.abc import Callable
import contextlib
from typing import Any

from etils import epath
from jax.sharding import Mesh

from kd_jax import errors
from kd_jax.distill import jitted
from kd_jax.runtime import checkpoint, distributed, run_dir

_RETRY_S = 30.0  # seconds from a failed save to the next try


class Saver:
  """A saver of the states of one run, which also restores the newest one.

  In a run of one process, a failed save does not end the run: the previous
  checkpoint is kept, and the save is retried.
  """

  def __init__(
    self, folder: run_dir.Folder, mesh: Mesh, say: Callable[[str], None]
  ):
    """Opens the checkpoints of a run's folder.

    Args:
      folder: The run's folder.
      mesh: The devices.
      say: A function that prints a line for the user.
    """
    self._folder, self._say = folder, say
    self._checkpoints = checkpoint.Checkpoints(folder.path / 'checkpoints')
    self._finite = jitted.all_finite(mesh)
    self._try_again = 0.0  # the time of the next try after a failed save

  @property
  def folder(self) -> epath.Path:
    """The folder of the checkpoints."""
    return self._checkpoints.folder

  def restore(self, like: Callable[[int], Any]) -> tuple[Any, int]:
    """Restores the newest checkpoint that is not damaged.

    Newer checkpoints, which are damaged, are moved aside.

    Args:
      like: Returns the shapes, dtypes and shardings of the state after a number
        of steps.

    Returns:
      The state and its step; None and 0 if there is no checkpoint.

    Raises:
      RunError: Every checkpoint is damaged.
    """
    damaged: dict[int, checkpoint.Damaged] = {}
    state, done = None, 0
    for step in self._checkpoints.steps():
      try:
        state, done = self._checkpoints.restore(step, like(step)), step
        break
      except checkpoint.Damaged as error:
        damaged[step] = error
    if state is None and damaged:
      raise errors.RunError(
        f'{next(iter(damaged.values()))}; there is no other to go on from: '
        'give another --workdir to begin from the start'
      )
    for step, reason in damaged.items():
      new_path = self._checkpoints.set_aside(step)
      self._say(f'{reason}; it is now {new_path}')
    return state, done

  def save(self, step: int, state: Any) -> None:
    """Saves a state, if all of it is finite.

    Raises:
      RunError: A value is not finite.
      SaveFailed: The save failed, and there are several processes.
    """
    if not self._finite(state):
      raise errors.RunError(
        self.failure(f'step {step}: the update made parameters infinite')
      )
    self._folder.guard()
    try:
      self._checkpoints.save(step, state)
    except checkpoint.SaveFailed as error:
      self._failed(error)

  def is_due_again(self) -> bool:
    """Returns whether to retry a failed save now.

    It reports a failure that is new.

    Raises:
      SaveFailed: The last save failed, and there are several processes.
    """
    try:
      self._checkpoints.check()
    except checkpoint.SaveFailed as error:
      self._failed(error)
    if not self._try_again or run_dir.now() <= self._try_again:
      return False
    self._try_again = 0.0
    return True

  def complete(self, step: int, state: Any) -> None:
    """Waits until the state of the last step is saved.

    Raises:
      SaveFailed: Every try failed.
    """
    self._checkpoints.save_now(step, state, self._failed)

  def failure(self, what: str) -> str:
    """Returns the message of a run that stops, with its last checkpoint."""
    with contextlib.suppress(checkpoint.SaveFailed):
      self._checkpoints.wait()
    latest = self._checkpoints.latest()
    kept = 'there is no checkpoint yet'
    if latest is not None:
      kept = f'the last good checkpoint is {self.folder / str(latest)}'
    return (
      f'{what}; stopped, {kept}. A smaller learning rate or weight, or '
      'config.optimizer.clip_norm, is the usual cure, and float32 in place of '
      'bfloat16; so is a teacher that was trained long enough'
    )

  def close(self) -> None:
    """Ends the writers of checkpoints."""
    # If a save fails now, the run has failed before for another reason.
    with contextlib.suppress(checkpoint.SaveFailed):
      self._checkpoints.close()

  def _failed(self, error: checkpoint.SaveFailed) -> None:
    """Reports a failed save, and schedules the next try.

    Raises:
      SaveFailed: There are several processes; the save has failed in all.
    """
    if distributed.count() > 1:  # retrying would deadlock in Orbax
      distributed.leave(distributed.START_AGAIN, error)
      raise error
    latest = self._checkpoints.latest()
    kept = 'there is none yet' if latest is None else f'step {latest} is kept'
    self._say(f'{error}; of the checkpoints {kept}; trying again')
    self._try_again = run_dir.now() + _RETRY_S
