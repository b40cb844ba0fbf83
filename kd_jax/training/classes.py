"""The classes of a teacher and those of the data, matched by their names."""

from collections.abc import Sequence
import re
from typing import Any, NamedTuple
import unicodedata

from flax import traverse_util
import flax.linen as nn
import jax
import numpy as np

from kd_jax import errors

# Orders that stand for the names of all classes.
NATURAL = ('natural',)
DATA = ('data',)
_SHOWN = 5  # names that a text lists


class Match(NamedTuple):
  """How the outputs of a teacher meet the classes of the data.

  Attributes:
    order: For each class of the data the number of the teacher's output, [K]
      i64; None if they are in the same order.
    note: What the user should know; '' if the names are the same.
  """

  order: np.ndarray | None
  note: str


def match(
  theirs: Sequence[str] | None, ours: Sequence[str], given: Sequence[str] = ()
) -> Match:
  """Returns how a teacher's outputs meet the classes of the data.

  Args:
    theirs: The names of the teacher's classes; None if they are not known.
    ours: The names of the data's classes, K.
    given: The names of the teacher's classes as the user says them, or
      `NATURAL`, the data's in the order 0, 1, 2, 10, or `DATA`, the data's in
      the data's order; () where the user says nothing.

  Raises:
    UsageError: Names are not those of the data's classes.
  """
  mine = [_name(name) for name in ours]
  if given:
    names = _said(given, mine)
    if sorted(names) != sorted(mine):
      raise errors.ArgumentError(
        f'class_names={_list(names)}: give the {len(mine)} names of the '
        f"data's classes ({_list(mine)}) in the order of the teacher's "
        "outputs, or 'natural' for the order 0, 1, 2, 10, or 'data'"
      )
    return Match(_order(names, mine), '')
  if theirs is None:
    return Match(None, _unknown('it does not name its classes', mine))
  names = [_name(name) for name in theirs]
  if names == mine:
    return Match(None, '')
  if sorted(names) == sorted(mine) and len({*mine}) == len(mine):
    return Match(
      _order(names, mine),
      f'its classes are in another order ({_list(names)}), and its outputs '
      'were put into the order of the data',
    )
  for names_of, whose in ((names, 'it has'), (mine, 'the data have')):
    if names_of == [str(k) for k in range(len(names_of))]:
      return Match(
        None, _unknown(f'{whose} numbers for names of classes', mine)
      )
  shared = len({*names} & {*mine})
  raise errors.UsageError(
    f'its classes are {_list(names)}, and those of the data {_list(mine)}: '
    f'{shared or "none"} of {len(mine)} names {"are" if shared != 1 else "is"} '
    'in both; if they are the same classes, set config.teacher.class_names to '
    "the data's names in the order of its outputs, or to 'data' if it is the "
    "data's order"
  )


def _name(name: str) -> str:
  """Returns a name with its accents composed, as files may have it or not."""
  return unicodedata.normalize('NFC', name)


def _said(given: Sequence[str], mine: list[str]) -> list[str]:
  if tuple(given) == NATURAL:
    return sorted(mine, key=_natural)
  return mine if tuple(given) == DATA else [_name(str(name)) for name in given]


def _natural(name: str) -> list[tuple[int, int, str]]:
  """Returns a key that sorts '2' before '10'."""
  parts = re.findall(r'\d+|\D+', name)
  return [(0, int(p), '') if p.isdecimal() else (1, 0, p) for p in parts]


def _order(names: list[str], mine: list[str]) -> np.ndarray | None:
  order = np.array([names.index(name) for name in mine])
  return None if np.array_equal(order, np.arange(len(mine))) else order


def _unknown(why: str, mine: list[str]) -> str:
  natural = _said(NATURAL, mine)
  hint = f"; 'natural' is the order {_list(natural)}" if natural != mine else ''
  return (
    f'{why}, and its outputs are taken in the order of the data '
    f'({_list(mine)}); config.teacher.class_names gives another{hint}'
  )


def _list(names: Sequence[str]) -> str:
  if len(names) <= _SHOWN:
    return ', '.join(names)
  return f'{", ".join(names[: _SHOWN - 1])}, ..., {names[-1]}'


def ordered(
  network: nn.Module,
  variables: dict[str, Any],
  order: np.ndarray,
  image_size: int,
) -> dict[str, Any]:
  """Returns a network's variables with its outputs in another order.

  The columns of its last layer change places, so that whoever reads that layer
  reads the new order too. Two random images tell which layer it is.

  Args:
    network: The network, of K classes.
    variables: Its 'params' and other collections.
    order: The number of the old output for each new one, [K] integers.
    image_size: Height and width of its images, in pixels.

  Returns:
    The variables, on the host.

  Raises:
    UsageError: No layer holds the outputs.
  """
  host = jax.tree.map(np.asarray, variables)
  shape = (2, image_size, image_size, 3)
  images = np.random.default_rng(0).normal(size=shape).astype(np.float32)

  @jax.jit
  def logits(variables):
    return network.apply(variables, images, train=False)

  want = np.asarray(logits(host), np.float32)[..., order]
  near = 1e-3 * want.std()
  flat = traverse_util.flatten_dict(host['params'])
  layers = {p[:-1] for p, x in flat.items() if x.shape[-1:] == order.shape}
  for layer in sorted(layers, key=lambda path: path != ('fc',)):
    moved = {
      path: x[..., order]
      if path[:-1] == layer and x.shape[-1:] == order.shape
      else x
      for path, x in flat.items()
    }
    found = {**host, 'params': traverse_util.unflatten_dict(moved)}
    if np.allclose(np.asarray(logits(found), np.float32), want, atol=near):
      return found
  raise errors.UsageError(
    'its classes are those of the data in another order, and no layer of '
    f'{type(network).__name__} holds its outputs alone, so that they cannot '
    'change places: train it on data with the classes in this order'
  )
