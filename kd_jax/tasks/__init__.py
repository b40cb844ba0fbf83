"""Tasks: what a data set is for, by name."""

from kd_jax import errors
from kd_jax.tasks.base import Metric as Metric
from kd_jax.tasks.base import Task as Task
from kd_jax.tasks.classification import Classification
from kd_jax.tasks.detection import Detection
from kd_jax.tasks.segmentation import Segmentation

_ALL: tuple[Task, ...] = (Classification(), Segmentation(), Detection())
TASKS: dict[str, Task] = {task.name: task for task in _ALL}


def find(name: str) -> Task:
  """Returns the task of a name.

  Raises:
    UsageError: The name is unknown.
  """
  if name not in TASKS:
    raise errors.unknown('task', name, TASKS)
  return TASKS[name]
