"""Keys that a configuration lacks since a group was replaced as a whole."""

import copy

from ml_collections import ConfigDict

from kd_jax.config import schema


def completed(config: ConfigDict) -> ConfigDict:
  """Returns a configuration with the defaults of added keys that it lacks.

  A group that was replaced as a whole, such as `config.student`, lacks them.

  Args:
    config: The configuration, which is changed.
  """
  for path, value in schema.ADDED.items():
    *groups, last = path.split('.')
    node = config
    for name in groups:
      node = node.get(name)
      if not isinstance(node, ConfigDict):
        break
    else:
      if last not in node:
        with node.unlocked():
          node[last] = copy.deepcopy(value)
  return config
