"""The text form of pytree paths."""

from typing import Any

import jax


def path_name(path: Any) -> str:
  """Returns a pytree path as text, such as 'student/conv1/kernel'."""
  return jax.tree_util.keystr(path, simple=True, separator='/')
