"""What is said of a key of a configuration."""

from typing import Any, NamedTuple


class Key(NamedTuple):
  """One key of a configuration.

  Attributes:
    path: Where it stands, such as 'data.name'.
    default: Its value in `default()`.
    help: What it means, in a line or two.
    choices: The values that are allowed; () where they are not listed.
    changes_result: Whether another value gives another result. What says only
      where and how often something is computed or written does not.
    for_teacher: Whether a teacher that is trained for a run takes its value
      from the run and not from its own recipe.
    added: Whether runs of older versions lack it. It identifies a run only
      where it is not the default.
  """

  path: str
  default: Any
  help: str
  choices: tuple[Any, ...] = ()
  changes_result: bool = True
  for_teacher: bool = False
  added: bool = False
