"""What the training loop takes of a configuration."""

from typing import NamedTuple


class LoopOptions(NamedTuple):
  """The fields of a configuration that the loop reads.

  Attributes:
    seed: The run's seed.
    batch_size: Images of a step, over all devices.
    eval_batch_size: Images of a step of the evaluation, over all devices.
    eval_every: Epochs from one evaluation to the next.
    checkpoint_every: Epochs from one checkpoint to the next.
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
  checkpoint_seconds: float = 0.0
  log_every: int = 0
