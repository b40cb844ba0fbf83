"""Keys that a configuration lacks, such as those of a replaced group."""

import copy
from typing import Any

from ml_collections import ConfigDict

from kd_jax.config import schema


def completed(config: ConfigDict) -> ConfigDict:
  """Returns a configuration with the defaults of added keys that it lacks.

  A group that was replaced as a whole, such as `config.student`, lacks them. A
  teacher's recipe gets those of augmentation.

  Args:
    config: The configuration, which is changed.
  """
  for path, value in schema.ADDED.items():
    _add(config, path, value)
  for teacher in (config.get('teacher'), *_named(config)):
    recipe = teacher.get('recipe') if isinstance(teacher, ConfigDict) else None
    if not isinstance(recipe, ConfigDict):
      continue
    for path in schema.OF_RECIPES:
      group = path.partition('.')[0]
      if group not in recipe:
        with recipe.unlocked():
          recipe[group] = ConfigDict()
      _add(recipe, path, schema.ADDED[path])
  return config


def _named(config: ConfigDict) -> list[Any]:
  """Returns the groups of `config.teachers`."""
  teachers = config.get('teachers')
  return [*teachers.values()] if isinstance(teachers, ConfigDict) else []


def _add(node: Any, path: str, value: Any) -> None:
  """Adds a key with a value where its group is there and lacks it."""
  *groups, last = path.split('.')
  for name in groups:
    node = node.get(name)
    if not isinstance(node, ConfigDict):
      return
  if last not in node:
    with node.unlocked():
      node[last] = copy.deepcopy(value)
