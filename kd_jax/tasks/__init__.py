"""Tasks: what a data set is for, by name."""

from collections.abc import Mapping
from typing import Any

from kd_jax import errors
from kd_jax.tasks.base import LogitRows as LogitRows
from kd_jax.tasks.base import Metric as Metric
from kd_jax.tasks.base import Task as Task
from kd_jax.tasks.classification import Classification
from kd_jax.tasks.detection import Detection
from kd_jax.tasks.segmentation import Segmentation

_ALL: tuple[Task, ...] = (Classification(), Detection(), Segmentation())
TASKS: dict[str, Task] = {task.name: task for task in _ALL}


def headline(result: Mapping[str, Any]) -> Metric:
  """Returns the metric of a run's result; older results have top-1.

  Args:
    result: The content of result.json; `result[metric.name]` is the value.
  """
  name = result.get('headline', 'top1')
  metrics = {task.headline.name: task.headline for task in TASKS.values()}
  return metrics.get(name, Metric(name, name))


def find(name: str) -> Task:
  """Returns the task of a name.

  Raises:
    UsageError: The name is unknown.
  """
  if name not in TASKS:
    raise errors.unknown('task', name, TASKS)
  return TASKS[name]
