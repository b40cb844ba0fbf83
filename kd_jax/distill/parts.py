"""What a run consists of: its data, its phases and what tracing tells."""

from typing import NamedTuple

from jax.sharding import Mesh

from kd_jax import tasks
from kd_jax.data import source
from kd_jax.distill import inspect, step
from kd_jax.features import NetFeatures


class Phase(NamedTuple):
  """A part of a run, which trains the same networks as the other phases.

  Attributes:
    name: The phase's name; '' for the last phase.
    exp: The networks and the method, with the phase's weights and optimizer.
    first: The first step.
    last: The step after the last one.
    rules: The regular expressions that select parameters.
  """

  name: str
  exp: step.Experiment
  first: int
  last: int
  rules: tuple[str, ...]


class Dispatch(NamedTuple):
  """The steps of a dispatch.

  Attributes:
    steps: How many there are.
    ahead: The steps whose teachers' features come from one forward pass; see
      `ahead.train_steps`. 1 computes them step by step.
    note: What a run says of `ahead`; '' if there is nothing to say.
  """

  steps: int = 1
  ahead: int = 1
  note: str = ''


class Parts(NamedTuple):
  """The parts of a run.

  Attributes:
    source: The data set, whose images are not read yet.
    mesh: The devices.
    phases: The phases, in order.
    traced: What tracing tells of each phase.
    steps_per_epoch: Steps of an epoch: floor(images / batch).
    dispatch: The steps of a dispatch.
  """

  source: source.Source
  mesh: Mesh
  phases: tuple[Phase, ...]
  traced: tuple[inspect.Traced, ...]
  steps_per_epoch: int
  dispatch: Dispatch = Dispatch()

  @property
  def exp(self) -> step.Experiment:
    """The last phase's experiment.

    All phases share its networks and its method.
    """
    return self.phases[-1].exp

  @property
  def features(self) -> NetFeatures:
    """Shapes and dtypes of every tap of every network."""
    return self.traced[-1].features

  @property
  def deployed(self) -> inspect.Deployed:
    """The prediction that is kept for inference."""
    return self.traced[-1].deployed

  @property
  def task(self) -> tasks.Task:
    """What the data set is for."""
    return self.exp.method.task

  @property
  def total_steps(self) -> int:
    """Steps of the whole run."""
    return self.phases[-1].last

  @property
  def epochs(self) -> int:
    """Epochs of the whole run."""
    return self.total_steps // self.steps_per_epoch

  def phase(self, done: int) -> Phase:
    """Returns the phase of the next step after `done` steps."""
    return self.phases[self._number(done)]

  def state(self, done: int) -> step.TrainState:
    """Returns shapes and dtypes of the state after `done` steps."""
    return self.traced[self._number(done)].state

  def _number(self, done: int) -> int:
    later = (i for i, p in enumerate(self.phases) if done < p.last)
    return next(later, len(self.phases) - 1)
