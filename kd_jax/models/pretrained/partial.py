"""The weights that a network begins with, of which some may be left out.

What a file or a trained network has is met with the network's parameters by
name and shape. What does not fit is refused, unless it is skipped by name; what
is skipped begins at random. A network with a backbone also takes the weights of
the classifier that the backbone is made of.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
import math
import os
import re
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np

from kd_jax import errors
from kd_jax.models import ssd
from kd_jax.models.pretrained import (
  backbones,
  contents,
  convert,
  layouts,
  states,
)

Shape = tuple[int, ...]
_SHOWN = 4  # parameters that an error lists
_SUGGESTED = 3  # patterns that an error suggests


class Taken(NamedTuple):
  """What is taken of the weights that are there.

  Attributes:
    values: The values by path, such as 'params/fc/kernel', f32.
    fresh: What begins at random, in short: the names of modules, or of
      parameters where the rest of their module is taken.
    parameters: How many numbers of 'params' are taken.
    of: How many numbers 'params' has.
    notes: What the user should know, a line each.
  """

  values: dict[str, Any]
  fresh: tuple[str, ...]
  parameters: int
  of: int
  notes: tuple[str, ...]


class _Offer(NamedTuple):
  """What there is for a network.

  Attributes:
    shapes: The shapes by the network's paths.
    others: The names of what has no place in the network.
    within: The module outside of which nothing can be there; '' is none.
    may_lack: The modules that may be missing.
    left: The names of a classifier's layers that no backbone has.
  """

  shapes: dict[str, Shape]
  others: list[str]
  within: str = ''
  may_lack: tuple[str, ...] = ()
  left: tuple[str, ...] = ()


class _Plan(NamedTuple):
  """The names of a network's parameters in a file; see `_Offer`."""

  layout: str
  names: dict[str, str]
  own: tuple[str, ...] = ()
  within: str = ''
  may_lack: tuple[str, ...] = ()


def of_variables(
  expected: Mapping[str, Shape],
  there: Mapping[str, Any],
  skip: Sequence[str] = (),
) -> Taken:
  """Returns what a network begins with of another network's variables.

  Args:
    expected: The shapes of the network's variables by path, such as
      'params/fc/kernel'.
    there: The other network's variables by path.
    skip: Regular expressions for paths without their collection, such as
      'fc/kernel'; where one is found, nothing is taken.

  Raises:
    UsageError: Something does not fit and is not skipped, nothing is shared, or
      an expression matches nothing.
  """
  same = {path: path for path in there}
  inner = {path: _within(path) for path in there if not _is_end(path)}
  is_backbone = _shared(inner, expected) > _shared(same, expected)
  place = inner if is_backbone else same
  at = {here: path for path, here in place.items() if here in expected}
  offer = _Offer(
    {here: tuple(there[path].shape) for here, path in at.items()},
    [_bare(path) for path, here in place.items() if here not in expected],
    backbones.MODULE if is_backbone else '',
    left=tuple(sorted(_bare(p) for p in there if p not in place)),
  )
  return _taken(expected, offer, skip, lambda path: there[at[path]])


def of_file(
  network: nn.Module,
  expected: Mapping[str, Shape],
  path: str | os.PathLike[str],
  key: str = '',
  skip: Sequence[str] = (),
) -> Taken:
  """Returns what a network begins with of a file of PyTorch weights.

  Args:
    network: A network of `models.NETWORKS`.
    expected: See `of_variables`.
    path: The path of the file; see `convert`.
    key: Where the weights stand in it; see `convert.load`.
    skip: See `of_variables`.

  Raises:
    UsageError: The file cannot be read; and as for `of_variables`.
  """
  plans = _plans(network, expected)
  with contents.opened(path) as content:
    try:
      chosen = [
        (states.choose(content, [tuple(plan.names.values())], key), plan)
        for plan in plans
      ]
    except errors.ArgumentError:
      raise
    except errors.UsageError as error:
      raise errors.UsageError(f'{os.fspath(path)}: {error}') from error
    state, plan = max(chosen, key=lambda pair: _fitting(*pair))
    weights = {
      name: value
      for name, value in state.weights.items()
      if not states.is_left_out(name)
    }
    if plan.may_lack and isinstance(network, ssd.SSDVGG):
      weights = backbones.with_convolutions(weights, network.hidden)
    left = {n for n in weights if n.rpartition('.')[0] in plan.own}
    offer = _Offer(
      {
        here: _shape_here(here, weights[name].shape, expected)
        for here, name in plan.names.items()
        if name in weights
      },
      sorted(weights.keys() - plan.names.values() - left),
      plan.within,
      plan.may_lack,
      tuple(sorted(left)),
    )

    def value(here: str) -> np.ndarray:
      name = plan.names[here]
      convert.check_dtypes(state._replace(weights=weights), {name})
      path, value = tuple(here.split('/')), weights[name].values()
      shape = convert.original(path, expected[here])
      return convert.converted(path, name, value, shape)

    with contents.damage(os.fspath(path)):
      taken = _taken(expected, offer, skip, value)
  return taken._replace(notes=(*state.notes, *taken.notes))


def _plans(network: nn.Module, expected: Mapping[str, Shape]) -> list[_Plan]:
  """Returns the names of the network's own layouts, then its backbone's."""
  plans = [
    _Plan(layout, _named(expected, namer))
    for layout, namer in layouts.layouts(network).items()
  ]
  inner = [p for p in expected if _is_within(_bare(p), backbones.MODULE)]
  for layout in backbones.of(network):
    names = _named(inner, _of_backbone(layout.namer))
    may_lack = tuple(f'{backbones.MODULE}/{x}' for x in layout.may_lack)
    plans.append(
      _Plan(layout.name, names, layout.own, backbones.MODULE, may_lack)
    )
  if not plans:
    raise errors.UsageError(
      f'{type(network).__name__} has no names of PyTorch layers; weights are '
      'converted for the networks of kd_jax.models'
    )
  return plans


def _of_backbone(namer: layouts.Namer) -> layouts.Namer:
  return lambda module: namer(module.removeprefix(f'{backbones.MODULE}/'))


def _named(
  paths: Collection[str], namer: Callable[[str], str]
) -> dict[str, str]:
  return {path: convert.named(tuple(path.split('/')), namer) for path in paths}


def _fitting(state: states.State, plan: _Plan) -> float:
  """Returns the share of a plan's names that are there."""
  names = plan.names.values()
  return sum(name in state.weights for name in names) / max(1, len(names))


def _taken(
  expected: Mapping[str, Shape],
  offer: _Offer,
  skip: Sequence[str],
  value: Callable[[str], Any],
) -> Taken:
  """Returns what is taken of an offer; see `of_variables`."""
  skips = _compiled(skip)
  _check_shared(expected, offer)
  _check_used(skip, skips, expected, offer)
  taken, problems = [], {}
  for path, shape in expected.items():
    name = _bare(path)
    if _is_skipped(name, skips) or not _is_within(name, offer.within):
      continue
    if path not in offer.shapes:
      if not any(_is_within(name, module) for module in offer.may_lack):
        problems[name] = f'{name} is not there'
    elif offer.shapes[path] != shape:
      problems[name] = (
        f'{name} is {list(offer.shapes[path])} there and {list(shape)} here'
      )
    else:
      taken.append(path)
  for name in offer.others:
    if not _is_skipped(name, skips):
      problems[name] = f'{name} has no place here'
  _check_problems(skip, problems)
  if not taken:
    raise errors.ArgumentError(
      f'skip={tuple(skip)}: they leave nothing to be taken; name less'
    )
  sizes = {p: math.prod(s) for p, s in expected.items() if _is_param(p)}
  return Taken(
    {path: value(path) for path in taken},
    _short({_bare(p) for p in expected} - {_bare(p) for p in taken}, expected),
    sum(sizes.get(path, 0) for path in taken),
    sum(sizes.values()),
    tuple(_notes(offer)),
  )


def _compiled(skip: Sequence[str]) -> list[re.Pattern[str]]:
  if isinstance(skip, str) or not all(isinstance(x, str) for x in skip):
    raise errors.ArgumentError(
      f"skip={skip!r}: give a tuple of regular expressions, such as ('^fc/',)"
    )
  try:
    return [re.compile(pattern) for pattern in skip]
  except re.error as error:
    raise errors.ArgumentError(
      f'skip={tuple(skip)}: {error.pattern!r} is no regular expression: {error}'
    ) from error


def _check_shared(expected: Mapping[str, Shape], offer: _Offer) -> None:
  """Raises UsageError if no parameter is shared by name and shape."""
  params = {path: shape for path, shape in expected.items() if _is_param(path)}
  if not any(offer.shapes.get(p) == shape for p, shape in params.items()):
    there = [*map(_bare, offer.shapes), *offer.others, *offer.left]
    here = list(dict.fromkeys(map(_bare, params)))
    raise errors.UsageError(
      'it is another network, of which no parameter has the name and the shape '
      f'of one here: it has {contents.shown(there, _SHOWN)}, and here are '
      f'{contents.shown(here, _SHOWN)}'
    )


def _check_used(
  skip: Sequence[str],
  skips: list[re.Pattern[str]],
  expected: Mapping[str, Shape],
  offer: _Offer,
) -> None:
  """Raises UsageError if a pattern is found nowhere."""
  names = [*map(_bare, expected), *offer.others]
  for pattern in skips:
    if not any(map(pattern.search, names)):
      modules = dict.fromkeys(f'{name.split("/")[0]}/' for name in names)
      wrong = errors.unknown('parameters', pattern.pattern, modules)
      raise errors.ArgumentError(f'skip={tuple(skip)}: {wrong}')


def _check_problems(skip: Sequence[str], problems: Mapping[str, str]) -> None:
  """Raises UsageError if something does not fit."""
  if not problems:
    return
  said = '; '.join(list(problems.values())[:_SHOWN])
  more = len(problems) - _SHOWN
  cure = dict.fromkeys(
    f'^{name.split("/")[0]}/' if '/' in name else f'^{name.split(".")[0]}[.]'
    for name in problems
  )
  raise errors.ArgumentError(
    f'skip={tuple(skip)}: {said}'
    + (f'; and {more} more do not fit' if more > 0 else '')
    + '; give the network and the classes that it was trained with, or leave '
    f'out what does not fit, such as {(*skip, *list(cure)[:_SUGGESTED])}'
    + (f' and {len(cure) - _SUGGESTED} more' if len(cure) > _SUGGESTED else '')
  )


def _notes(offer: _Offer) -> list[str]:
  notes = []
  if offer.within:
    modules = dict.fromkeys(re.sub(r'[/.]\w+$', '', n) for n in offer.left)
    notes.append(
      f'the {offer.within} was taken of a classifier'
      + (f'; left: {contents.shown(modules)}' if modules else '')
    )
  lacking = [
    module
    for module in offer.may_lack
    if not any(_is_within(_bare(path), module) for path in offer.shapes)
  ]
  if lacking:
    notes.append(
      f'{" and ".join(lacking)} cannot be made of what is there, and begin at '
      'random'
    )
  return notes


def _short(fresh: set[str], paths: Collection[str]) -> tuple[str, ...]:
  """Returns the largest modules that are fresh as a whole, and the rest."""
  taken = {_bare(path) for path in paths} - fresh
  found: dict[str, None] = {}
  for name in sorted(fresh):
    parts = name.split('/')
    prefixes = ['/'.join(parts[:i]) for i in range(1, len(parts) + 1)]
    found[
      next(
        prefix
        for prefix in prefixes
        if not any(_is_within(other, prefix) for other in taken)
      )
    ] = None
  return tuple(found)


def _shared(place: Mapping[str, str], expected: Mapping[str, Shape]) -> int:
  return sum(here in expected for here in place.values())


def _is_param(path: str) -> bool:
  return path.startswith('params/')


def _bare(path: str) -> str:
  """Returns a path without its collection: 'fc/kernel'."""
  return path.partition('/')[2]


def _within(path: str) -> str:
  """Returns a classifier's path in a network with a backbone."""
  collection, _, rest = path.partition('/')
  return f'{collection}/{backbones.MODULE}/{rest}'


def _is_end(path: str) -> bool:
  return _bare(path).partition('/')[0] in backbones.ENDS


def _is_skipped(name: str, skips: list[re.Pattern[str]]) -> bool:
  return any(pattern.search(name) for pattern in skips)


def _is_within(name: str, module: str) -> bool:
  return not module or name == module or name.startswith(f'{module}/')


def _shape_here(
  path: str, shape: Shape, expected: Mapping[str, Shape]
) -> Shape:
  """Returns the shape that a PyTorch weight of this shape has in Linen."""
  wanted = expected[path]
  there = convert.original(tuple(path.split('/')), wanted)
  if convert.core(shape) == convert.core(there):
    return wanted
  if not path.endswith('/kernel'):
    return shape
  if len(shape) == 4:
    return shape[2], shape[3], shape[1], shape[0]
  return shape[::-1]
