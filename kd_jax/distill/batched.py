"""Students of one network, which run as one network with a further axis.

A GPU then has one kernel where it has one for each student: convolutions are
grouped, and BatchNorms normalise by the statistics of each student.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp

Result = TypeVar('Result')


def groups(
  networks: Mapping[str, nn.Module],
  others: Sequence[Mapping[str, Any]],
  wanted: bool,
) -> list[list[str]]:
  """Returns the names of networks in groups that run as one.

  Args:
    networks: The networks by name.
    others: What else must be equal, by name, such as the size of the images; a
      name may be missing.
    wanted: Whether networks run as one; otherwise each is a group.
  """
  found: list[list[str]] = []
  for name, network in networks.items():
    for names in found if wanted else ():
      equal = all(of.get(names[0]) == of.get(name) for of in others)
      if equal and networks[names[0]] == network:
        names.append(name)
        break
    else:
      found.append([name])
  return found


def apply(
  function: Callable[[Any], Result], variables: Sequence[Any]
) -> list[Result]:
  """Returns a function's result for each network's variables.

  Args:
    function: A function of one network's variables.
    variables: Pytrees of one structure and with equal shapes, one for each
      network.
  """
  if len(variables) == 1:
    return [function(variables[0])]
  stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), *variables)
  results = jax.vmap(function)(stacked)
  return [
    jax.tree.map(lambda x, i=i: x[i], results) for i in range(len(variables))
  ]
