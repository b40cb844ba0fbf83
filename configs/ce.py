"""A network trained on the labels alone: how teachers are made.

python -m kd_jax.main --config configs/ce.py
"""

from kd_jax import config as base


def get_config(recipe: str | None = None) -> base.ConfigDict:
  """The recipe's configuration."""
  return base.pick(recipe, RECIPES)


def digits() -> base.ConfigDict:
  """The teacher of the embedded recipes."""
  return base.of_teacher(base.digits())


RECIPES = {'digits': digits}
