"""Checkpoints of a run: save, try again where a save fails, resume."""

from collections.abc import Callable
import contextlib
from typing import Any

from etils import epath
from jax.sharding import Mesh

from kd_jax import errors
from kd_jax.distill import jitted
from kd_jax.runtime import checkpoint, distributed, run_dir

_RETRY_S = 30.0  # seconds, from a failed save to the next try


class Saver:
  """Saves the states of one run, and restores the newest.

  A save that fails does not end a run of one process: the state before it is
  kept, and another try follows.
  """

  def __init__(
    self, folder: run_dir.Folder, mesh: Mesh, say: Callable[[str], None]
  ):
    """Opens the checkpoints of a run's folder.

    Args:
      folder: The run's folder.
      mesh: The devices.
      say: Prints a line for a person.
    """
    self._folder, self._say = folder, say
    self._checkpoints = checkpoint.Checkpoints(folder.path / 'checkpoints')
    self._finite = jitted.all_finite(mesh)
    self._try_again = 0.0  # when to save again after a save that failed

  @property
  def folder(self) -> epath.Path:
    """Where the checkpoints are."""
    return self._checkpoints.folder

  def restore(self, like: Callable[[int], Any]) -> tuple[Any, int]:
    """Restores the newest checkpoint that is whole.

    Args:
      like: Gives the shapes, dtypes and shardings of the state after a number
        of steps.

    Returns:
      The state and its step; None and 0 where there is no checkpoint.

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
        'give another --workdir to begin anew'
      )
    for step, why in damaged.items():
      place = self._checkpoints.set_aside(step)
      self._say(f'{why}; it is now {place}')
    return state, done

  def save(self, step: int, state: Any) -> None:
    """Saves a state, if all of it is finite.

    Raises:
      RunError: A value is not finite.
      SaveFailed: The save failed and there are several processes.
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
    """Whether a failed save is to be tried again now; says a new failure.

    Raises:
      SaveFailed: The last save failed and there are several processes.
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
    good = 'there is no checkpoint yet'
    if latest is not None:
      good = f'the last good checkpoint is {self.folder / str(latest)}'
    return (
      f'{what}; stopped, {good}. A smaller learning rate or weight, or '
      "config.dtype='float32', is the usual cure"
    )

  def close(self) -> None:
    """Ends what still writes."""
    # Where a save fails now, the run has failed of something else before.
    with contextlib.suppress(checkpoint.SaveFailed):
      self._checkpoints.close()

  def _failed(self, error: checkpoint.SaveFailed) -> None:
    """Says that a save failed, and plans the next try.

    Raises:
      SaveFailed: There are several processes, so that all failed.
    """
    if distributed.count() > 1:  # Orbax's would wait for one another for ever
      distributed.leave(distributed.START_AGAIN, error)
      raise error
    latest = self._checkpoints.latest()
    kept = 'there is none yet' if latest is None else f'step {latest} is kept'
    self._say(f'{error}; of the checkpoints {kept}; trying again')
    self._try_again = run_dir.now() + _RETRY_S
