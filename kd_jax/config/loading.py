"""Loads the configuration of a recipe by its name."""

import importlib.util

from ml_collections import ConfigDict

from kd_jax.config import recipes


def load(recipe: str) -> ConfigDict:
  """Returns the configuration of a recipe.

  Args:
    recipe: FILE[:recipe], as `--config` takes it.

  Raises:
    UsageError: There is no such file or recipe.
  """
  path, _, name = recipe.partition(':')
  spec = importlib.util.spec_from_file_location('_', recipes.find(path))
  assert spec is not None
  assert spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(name or None)
