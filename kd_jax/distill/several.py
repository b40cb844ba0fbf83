"""The training steps of several runs in one program, which differ by seed."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.custom_batching import custom_vmap
from jax.extend import core
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


def value_and_grad(
  objective: Callable[[Any], Any], *, has_aux: bool
) -> Callable[[Any], Any]:
  """Returns `jax.value_and_grad`, whose `vmap` is the gradient of a `vmap`.

  The `vmap` of a gradient makes a convolution of the whole map's size of each
  kernel's gradient, for which cuDNN has no fast algorithm. The gradient of a
  grouped convolution is one that it knows.

  Args:
    objective: A function of parameters that returns a scalar and more.
    has_aux: True, as what it returns has more than the scalar.
  """

  def derived(params):
    # What the objective closes over becomes an argument.
    closed, shapes = jax.make_jaxpr(objective, return_shape=True)(params)

    def plain(params, given):
      program = core.jaxpr_as_fun(core.ClosedJaxpr(closed.jaxpr, given))
      values = program(*jax.tree.leaves(params))
      return jax.tree.unflatten(jax.tree.structure(shapes), values)

    @custom_vmap
    def derive(params, given):
      return jax.value_and_grad(plain, has_aux=has_aux)(params, given)

    @derive.def_vmap
    def derive_all(size, is_batched, params, given):
      assert all(jax.tree.leaves(is_batched[0]))  # each seed has its own
      axes = jax.tree.map(lambda x: 0 if x else None, is_batched)

      def total(params):
        values, more = jax.vmap(plain, in_axes=axes)(params, given)
        return values.sum(), (values, more)

      (_, results), grads = jax.value_and_grad(total, has_aux=True)(params)
      found = results, grads
      return found, jax.tree.map(lambda _: True, found)

    return derive(params, closed.consts)

  return derived


def _apart(x: Any) -> bool:
  return isinstance(x, Apart)
