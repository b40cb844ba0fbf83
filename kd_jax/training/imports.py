"""Import paths in what is read: whose code may run.

A run's config.json may name a network, a method or a data set by an import
path, 'package.module:Name'. Importing a module runs its code. What a run's
folder names is data and no command: it is refused unless the caller allows it.
"""

from collections.abc import Collection, Mapping

from kd_jax import data, errors

HELP = 'the run may name code to import, which runs: if you trust its maker'
# Whether names that are read may be imported, or which ones.
Allowed = bool | Collection[str]


def check(names: Mapping[str, str], allowed: Allowed, whose: str) -> None:
  """Checks names that a run or an export wants to use.

  Args:
    names: The names of networks, methods and data sets, by the key that holds
      each: 'student.name', 'teacher.name', 'method' or 'data.name'.
    allowed: True if all may be imported, or those that may.
    whose: What names them, such as the path of a run.

  Raises:
    UsageError: A name is an import path that is not allowed.
  """
  if allowed is True:
    return
  for key, name in names.items():
    is_path = data.is_imported(name) if key == 'data.name' else ':' in name
    if is_path and not (allowed and name in allowed):
      raise errors.ArgumentError(
        f'allow_imports=False: {whose} names {key}={name!r}, and to use it the '
        f'code of the module {name.partition(":")[0]!r} would run; set it if '
        'you trust whoever made this'
      )
