"""Shapes as docstrings write them, `[N,H,W,C] f32`, checked at every call.

A session of tests guards all functions of `kd_jax.losses` with it, so that a
docstring that is not true, or a caller that gives another shape, fails.
"""

from collections.abc import Callable, Iterator
import functools
import inspect
import re
from typing import Any

import jax.numpy as jnp

_SHAPE = re.compile(r"\[([A-Za-z.'][\w.,'+*]*|)\](?: (f32|i32|bool))?")
_KINDS = {'f32': jnp.floating, 'i32': jnp.integer, 'bool': jnp.bool_}


class MismatchError(TypeError):
  """A shape or dtype that the docstring does not allow."""


def documented(function: Callable[..., Any]) -> dict[str, list[Any]]:
  """Returns for each argument the shapes and dtypes that its entry allows.

  Returns:
    By argument, a list of (axes, dtype or '').
  """
  doc = inspect.getdoc(function) or ''
  section = re.search(
    r'^Args:\n(.*?)(?=^\w+:|\Z)', doc, re.MULTILINE | re.DOTALL
  )
  if not section:
    return {}
  entries = re.findall(
    r'^  (\w+): (.*?)(?=^  \w+:|\Z)', section[1], re.MULTILINE | re.DOTALL
  )
  return {
    name: [
      (tuple(axes.split(',')) if axes else (), kind)
      for axes, kind in _SHAPE.findall(text)
    ]
    for name, text in entries
  }


def _fits(axes: tuple[str, ...], shape: tuple[int, ...], sizes: dict[str, int]):
  """Returns `sizes` with this shape's axes, or None where it does not fit."""
  sizes = dict(sizes)
  if '...' in axes:
    axes = axes[: axes.index('...')]
    shape = shape[: len(axes)]
  if len(axes) != len(shape):
    return None
  for axis, size in zip(axes, shape, strict=True):
    named = axis.rstrip("'").isidentifier()
    if named and sizes.setdefault(axis, size) != size:
      return None
  return sizes


def _arrays(value: Any) -> Iterator[Any]:
  if hasattr(value, 'shape') and hasattr(value, 'dtype'):
    yield value


def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
  """Returns the function with its arguments checked against its docstring.

  Raises (when called):
    MismatchError: An array has another shape or dtype, or two arrays disagree
      on the size of an axis of one name.
  """
  allowed = documented(function)
  signature = inspect.signature(function)

  @functools.wraps(function)
  def checked(*args: Any, **kwargs: Any) -> Any:
    sizes: dict[str, int] = {}
    for name, value in signature.bind(*args, **kwargs).arguments.items():
      for array in _arrays(value):
        choices = allowed.get(name)
        if not choices:
          raise MismatchError(
            f'{function.__name__}: {name} has no shape in its entry'
          )
        for axes, kind in choices:
          fitting = _fits(axes, array.shape, sizes)
          right = not kind or jnp.issubdtype(array.dtype, _KINDS[kind])
          if fitting is not None and right:
            sizes = fitting
            break
        else:
          raise MismatchError(
            f'{function.__name__}: {name} is {array.shape} {array.dtype}; '
            f'its docstring allows {choices}, with {sizes}'
          )
    return function(*args, **kwargs)

  return checked


def guard(module: Any) -> None:
  """Replaces every public function of a module by its guarded one."""
  for name, value in vars(module).items():
    if inspect.isfunction(value) and not name.startswith('_'):
      setattr(module, name, guarded(value))
