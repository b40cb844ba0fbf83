"""The registry of distillation methods."""

import dataclasses
import importlib
import os
import pkgutil
from typing import Any

from kd_jax import domains, errors
from kd_jax.methods import base

# Modules of this package that are not methods.
_SHARED = ('adapters', 'base', 'projectors', 'registry')


def names() -> list[str]:
  """Returns the sorted names of all methods, which are modules beside this."""
  modules = (m.name for m in pkgutil.iter_modules([os.path.dirname(__file__)]))
  return sorted(name for name in modules if name not in _SHARED)


def method_class(name: str) -> type[base.Method]:
  """Returns the class `Method` of a method's module.

  Args:
    name: The name of a module in `kd_jax.methods`, or 'package.module:Name'
      for a class that the user wrote.

  Returns:
    The class.

  Raises:
    UsageError: The name is unknown.
  """
  if ':' in name:
    cls = errors.imported(*name.split(':', 1))
    if not (isinstance(cls, type) and issubclass(cls, base.Method)):
      raise errors.UsageError(
        f'{name} is no method, but a {type(cls).__name__}; name a class of '
        'kd_jax.methods.base.Method'
      )
    return cls
  if '.' in name:
    raise errors.UsageError(
      f'method {name!r}: name the class too, as {name}:Method'
    )
  if name not in names():
    raise errors.unknown('method', name, names())
  return importlib.import_module(f'kd_jax.methods.{name}').Method


def fields(cls: type[base.Method]) -> set[str]:
  """Returns the names of the constructor arguments of a method's class."""
  all_fields = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
  return all_fields - {'parent', 'name'}


def make(name: str, **kwargs: Any) -> base.Method:
  """Returns a new method.

  Args:
    name: The method's name; see `method_class`.
    **kwargs: The arguments of its constructor.

  Returns:
    The method.

  Raises:
    UsageError: The name or an argument is unknown, or a value is not allowed.
  """
  cls = method_class(name)
  for argument in kwargs:
    if argument not in fields(cls):
      kind = f'argument of method {name}:'
      raise errors.unknown(kind, argument, fields(cls))
  domains.check_fields(cls, kwargs, domains.METHODS)
  return cls(**kwargs)
