"""The training steps of several runs in one program, which differ by seed."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Apart(NamedTuple):
  """An array of each run, where they are not the same.

  Attributes:
    arrays: The arrays, of equal shapes and dtypes.
  """

  arrays: tuple[jax.Array, ...]


def joined(trees: Sequence[Any]) -> Any:
  """Returns one tree for several runs: an array of all of them, or an `Apart`.

  Args:
    trees: The tree of each run. An array that is the same object in all of them
      is shared.
  """

  def join(*xs):
    return xs[0] if all(x is xs[0] for x in xs) else Apart(xs)

  return jax.tree.map(join, *trees)


def steps(
  one: Callable[..., Any],
  seeds: jax.Array,
  states: Sequence[Any],
  frozen: Any,
  arrays: Any,
  feeds: Any,
) -> list[tuple[Any, Any]]:
  """Runs the steps of R runs; their networks become batched ones.

  A run equals its own steps up to rounding: it has the same keys and batches,
  but XLA computes a convolution of R kernels as a grouped one.

  Args:
    one: The steps of one run: a function of (seed, state, frozen, arrays,
      feeds) that returns its state and scalars.
    seeds: The seeds, [R] i32.
    states: The state of each run.
    frozen: The teachers' variables, as `joined` returns them.
    arrays: The data on the devices, as `joined` returns them.
    feeds: The feeds of the runs, stacked along a first axis [R].

  Returns:
    The state and the scalars of each run.
  """
  fixed = (frozen, arrays)
  axes = jax.tree.map(lambda x: 0 if _apart(x) else None, fixed, is_leaf=_apart)
  fixed = jax.tree.map(
    lambda x: jnp.stack(x.arrays) if _apart(x) else x, fixed, is_leaf=_apart
  )
  stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *states)
  results = jax.vmap(one, in_axes=(0, 0, *axes, 0))(
    seeds, stacked, *fixed, feeds
  )
  return [
    jax.tree.map(lambda x: x[i], results)  # noqa: B023  (mapped at once)
    for i in range(len(states))
  ]


def _apart(x: Any) -> bool:
  return isinstance(x, Apart)
