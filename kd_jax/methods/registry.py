"""Methods by name."""

import dataclasses
import importlib
import os
import pkgutil
from typing import Any

from kd_jax import errors
from kd_jax.methods import base

# Modules of this room that are no methods.
_SHARED = ('adapters', 'base', 'projectors', 'registry')


def names() -> list[str]:
  """Returns the names of all methods: the modules beside this one."""
  found = (m.name for m in pkgutil.iter_modules([os.path.dirname(__file__)]))
  return sorted(name for name in found if name not in _SHARED)


def method_class(name: str) -> type[base.Method]:
  """The class `Method` of the module `kd_jax.methods.<name>`.

  'package.module:Name' is a class of the user's own.

  Raises:
    UsageError: for an unknown name.
  """
  if ':' in name:
    return errors.imported(*name.split(':', 1))
  if '.' in name:
    raise errors.UsageError(
      f'method {name!r}: name the class too, as {name}:Method'
    )
  if name not in names():
    raise errors.unknown('method', name, names())
  return importlib.import_module(f'kd_jax.methods.{name}').Method


def fields(cls: type[base.Method]) -> set[str]:
  """The constructor arguments of a method's class."""
  own = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
  return own - {'parent', 'name'}


def make(name: str, **kwargs: Any) -> base.Method:
  """Makes the method called `name`.

  Raises:
    UsageError: for an unknown name or argument.
  """
  cls = method_class(name)
  for argument in kwargs:
    if argument not in fields(cls):
      kind = f'argument of method {name}:'
      raise errors.unknown(kind, argument, fields(cls))
  return cls(**kwargs)
