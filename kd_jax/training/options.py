"""What the training loop takes of a configuration."""

from typing import NamedTuple

from kd_jax.data import dataset
from kd_jax.distill import build, jitted


class LoopOptions(NamedTuple):
  """The fields of a configuration that the loop reads.

  Attributes:
    seed: The run's seed.
    batch_size: Images of a step, over all devices.
    eval_batch_size: Images of a step of the evaluation, over all devices.
    eval_every: Epochs from one evaluation to the next.
    checkpoint_every: Epochs from one checkpoint to the next.
    steps_per_dispatch: Steps of a dispatch; 0 chooses by platform.
    checkpoint_seconds: Seconds that pass at least from one checkpoint to the
      next; the last step is saved anyway.
    log_every: Steps from one point of the curves to the next; 0 makes a point
      of each epoch.
  """

  seed: int
  batch_size: int
  eval_batch_size: int
  eval_every: float
  checkpoint_every: float
  steps_per_dispatch: int = 0
  checkpoint_seconds: float = 0.0
  log_every: int = 0

  def steps_of_dispatch(
    self, parts: build.Parts, train: dataset.TrainSet, platform: str
  ) -> int:
    """Returns the number of steps of a dispatch.

    Args:
      parts: The parts of the run.
      train: The training split.
      platform: The devices' platform, such as 'cpu', 'gpu' or 'tpu'.
    """
    if self.steps_per_dispatch:
      return self.steps_per_dispatch
    image = parts.source.info.image_size**2 * 3
    streamed = 0 if train.arrays else self.batch_size * image
    return jitted.steps_per_dispatch(platform, parts.steps_per_epoch, streamed)
