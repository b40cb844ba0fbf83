"""Values of keys that are written as groups: networks and schedules."""

from typing import Any

from ml_collections import ConfigDict


def network(name: str, **args: Any) -> ConfigDict:
  """Returns a network's name with the fields of its class."""
  return ConfigDict({'name': name, 'args': ConfigDict(args)})


def step_schedule(
  value: float, milestones: tuple[float, ...], factor: float = 0.1
) -> ConfigDict:
  """Returns the schedule of `value`, times `factor` at each milestone epoch."""
  return ConfigDict(
    {
      'kind': 'step',
      'value': value,
      'milestones': milestones,
      'factor': factor,
    }
  )


def warmed_up(value: float, epochs: int, first: int = 1) -> ConfigDict:
  """Returns value * min(1, e / epochs) in epoch e, counted from `first`."""
  return ConfigDict(
    {'kind': 'ramp', 'value': value, 'epochs': epochs, 'first': first}
  )
