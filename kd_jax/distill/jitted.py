"""The functions that a run compiles, jitted over its mesh.

The loop calls what these return, and `kd_jax.benchmark.programs` compiles the
same for chips that are not there. `accuracy.counted` belongs to them.
"""

from collections.abc import Callable
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from kd_jax.data import resident
from kd_jax.distill import step
from kd_jax.runtime import sharding

_MOST_STEPS = 128  # of a dispatch
_MOST_BYTES = 64e6  # of the images that the host gives to a dispatch


def init(exp: step.Experiment, mesh: Mesh) -> Any:
  """`step.init` of (seed, frozen, batch); the state lies on every device."""
  return jax.jit(
    functools.partial(step.init, exp), out_shardings=sharding.replicated(mesh)
  )


def train_steps(
  exp: step.Experiment, assemble: Callable[..., Any], mesh: Mesh
) -> Any:
  """The dispatch of a run: `step.train_steps`, whose state is donated.

  Args:
    exp: of the phase.
    assemble: the `batch` method of the training split.
    mesh: the devices.

  Returns:
    A jitted function of (seed, state, frozen, arrays, feeds).
  """
  whole = sharding.replicated(mesh)
  return jax.jit(
    functools.partial(step.train_steps, exp, assemble),
    donate_argnums=1,
    in_shardings=(whole,) * 4 + (sharding.batched(mesh, axis=1),),
    out_shardings=whole,
  )


def steps_per_dispatch(
  platform: str, steps_per_epoch: int, streamed_bytes: int = 0
) -> int:
  """How many steps a dispatch has unless the configuration says otherwise.

  Args:
    platform: of the devices, such as 'cpu', 'gpu' or 'tpu'.
    steps_per_epoch: steps in an epoch.
    streamed_bytes: of the images of one step, where the host gives them: they
      are joined and moved at once; 0 where the split is on the devices.

  Returns:
    1 on a CPU, elsewhere the largest divisor of an epoch up to the limits.
  """
  if platform == 'cpu':
    return 1
  most = _MOST_STEPS
  if streamed_bytes:
    most = max(1, min(most, int(_MOST_BYTES // streamed_bytes)))
  epoch = steps_per_epoch
  return max(n for n in range(1, min(epoch, most) + 1) if epoch % n == 0)


def optimizer_init(exp: step.Experiment, mesh: Mesh) -> Any:
  """The optimizer's first state, of params: where a phase begins."""
  return jax.jit(exp.tx.init, out_shardings=sharding.replicated(mesh))


def all_finite(mesh: Mesh) -> Any:
  """`step.all_finite` of a state: asked before every save."""
  return jax.jit(step.all_finite, out_shardings=sharding.replicated(mesh))


def fold(exp: step.Experiment, image_size: int, mesh: Mesh) -> Any:
  """`step.fold` of the teachers' variables, once before the first step."""
  shape = (1, image_size, image_size, 3)

  def fold(frozen):
    return step.fold(exp, frozen, jnp.zeros(shape))

  return jax.jit(fold, out_shardings=sharding.replicated(mesh))


def known_logits(
  exp: step.Experiment, train: resident.Training, mesh: Mesh
) -> Any:
  """The teachers' logits of the views of a batch, [B,V,K] f32 each.

  Returns:
    A jitted function of (frozen, arrays, feed), as `train.eval_feeds` feeds it.
  """
  whole = sharding.replicated(mesh)

  @functools.partial(
    jax.jit,
    in_shardings=(whole, whole, sharding.batched(mesh)),
    out_shardings=whole,
  )
  def of_batch(frozen, arrays, feed):
    batch = train.eval_batch(arrays, feed)
    views = [
      step.known_logits(exp, frozen, {**batch, 'image': image})
      for image in train.views(batch['image'])
    ]
    return jax.tree.map(lambda *xs: jnp.stack(xs, axis=1), *views)

  return of_batch
