"""Loads the configuration of a recipe by its name."""

import importlib.util
from typing import Any

from ml_collections import ConfigDict

from kd_jax import errors
from kd_jax.config import completing, recipes, schema

_ABSENT = object()


def load(recipe: str) -> ConfigDict:
  """Returns the configuration of a recipe.

  Args:
    recipe: FILE[:recipe], as `--config` takes it.

  Raises:
    UsageError: There is no such file or recipe, or it is no configuration.
  """
  path, _, name = recipe.partition(':')
  spec = importlib.util.spec_from_file_location('_', recipes.find(path))
  assert spec is not None
  assert spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  if not callable(getattr(module, 'get_config', None)):
    raise errors.UsageError(f'{path}: its get_config is no function')
  return checked(module.get_config(name or None), path)


def checked(config: Any, path: str) -> ConfigDict:
  """Returns what the `get_config` of a file has returned, if it has all keys.

  Args:
    config: What it has returned.
    path: The file, for the message.

  Raises:
    UsageError: It is no configuration, or lacks a key.
  """
  cure = 'begin with kd_jax.config.default()'
  if not isinstance(config, ConfigDict):
    kind = type(config).__name__
    raise errors.UsageError(
      f'get_config of {path} returns no ConfigDict, but a {kind}: {cure}'
    )
  completing.completed(config)
  for key in schema.KEYS:
    node: Any = config
    for part in key.path.split('.'):
      node = (
        node.get(part, _ABSENT) if isinstance(node, ConfigDict) else _ABSENT
      )
    if node is _ABSENT:
      raise errors.UsageError(
        f'the configuration of {path} lacks config.{key.path}: {cure}'
      )
  return config
