"""The functions that a run compiles, jitted over its mesh.

The training loop calls the functions that are returned here, and
`kd_jax.benchmark.programs` compiles them for chips that are not there.
`evaluation.counted` belongs to them too.
"""

from collections.abc import Callable
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from kd_jax.data import resident
from kd_jax.distill import ahead as ahead_lib
from kd_jax.distill import figures, several, step
from kd_jax.features import Batch, known
from kd_jax.models import layers
from kd_jax.runtime import sharding

_MOST_STEPS = 128  # steps of a dispatch
_MOST_BYTES = 64e6  # bytes of images that the host passes to a dispatch

# LLVM takes seconds to optimise the generators of random numbers in a program
# that runs once. Its first level gives the same bits in a quarter of the time.
_ONCE_ON_CPU = {'xla_backend_optimization_level': 1}


def init(exp: step.Experiment, mesh: Mesh) -> Any:
  """Returns `step.init` as a jitted function of (seed, frozen, batch, start).

  The state that it returns is replicated on every device.
  """
  is_cpu = mesh.devices.flat[0].platform == 'cpu'
  quickest = jax.config.values['jax_disable_most_optimizations']
  return jax.jit(
    functools.partial(step.init, exp),
    out_shardings=sharding.replicated(mesh),
    compiler_options=_ONCE_ON_CPU if is_cpu and not quickest else None,
  )


def train_steps(
  exp: step.Experiment,
  assemble: Callable[..., Any],
  mesh: Mesh,
  ahead: int = 1,
) -> Any:
  """Returns the dispatch of a run: `step.train_steps`, with the state donated.

  Args:
    exp: The experiment of the phase.
    assemble: The method `batch` of the training split.
    mesh: The devices.
    ahead: The steps whose teachers' features come from one forward pass, as
      `dispatch.chosen` says; see `ahead.train_steps`. A dispatch of one step
      is as if it were 1.

  Returns:
    A jitted function of (seed, state, frozen, arrays, feeds).
  """
  replicated = sharding.replicated(mesh)
  return jax.jit(
    _dispatch(exp, assemble, mesh, ahead),
    donate_argnums=1,
    in_shardings=(replicated,) * 4 + (sharding.batched(mesh, axis=1),),
    out_shardings=replicated,
  )


def _dispatch(
  exp: step.Experiment, assemble: Callable[..., Any], mesh: Mesh, ahead: int
) -> Callable[..., Any]:
  """Returns the function of a dispatch, with the teachers ahead or not."""
  alone = functools.partial(step.train_steps, exp, assemble)
  grouped = functools.partial(
    ahead_lib.train_steps, exp, assemble, ahead, mesh.size
  )

  def train_steps(seed, state, frozen, arrays, feeds):
    steps = jax.tree.leaves(feeds)[0].shape[0]
    dispatch = alone if 1 in (steps, ahead) else grouped
    with layers.traced_for(mesh.size):
      return dispatch(seed, state, frozen, arrays, feeds)

  return train_steps


def train_steps_together(
  exp: step.Experiment,
  assemble: Callable[..., Any],
  mesh: Mesh,
  ahead: int = 1,
) -> Any:
  """Returns the dispatch of several runs, with their states donated.

  Args:
    exp: The experiment of the phase, the same in all runs.
    assemble: The method `batch` of the training split of any of them.
    mesh: The devices.
    ahead: See `train_steps`.

  Returns:
    A jitted function of (seeds, states, frozen, arrays, feeds); see
    `several.steps`.
  """
  replicated = sharding.replicated(mesh)
  exp = exp._replace(value_and_grad=several.value_and_grad)
  one = _dispatch(exp, assemble, mesh, ahead)
  return jax.jit(
    functools.partial(several.steps, one),
    donate_argnums=1,
    in_shardings=(replicated,) * 4 + (sharding.batched(mesh, axis=2),),
    out_shardings=replicated,
  )


def steps_per_dispatch(
  platform: str,
  steps_per_epoch: int,
  streamed_bytes: int = 0,
  multiple: int = 1,
) -> int:
  """Returns the default number of steps of a dispatch.

  Args:
    platform: The devices' platform, such as 'cpu', 'gpu' or 'tpu'.
    steps_per_epoch: Steps of an epoch.
    streamed_bytes: Bytes of one step's images if the host streams them, since
      the images of a dispatch are joined and moved at once; 0 if the split is
      on the devices.
    multiple: What the number must be a multiple of.

  Returns:
    1 on a CPU; elsewhere the largest divisor of `steps_per_epoch` that is
    within the limits. 0 if no such number is a multiple.
  """
  if platform == 'cpu':
    return int(multiple == 1)
  most = _MOST_STEPS
  if streamed_bytes:
    most = max(1, min(most, int(_MOST_BYTES // streamed_bytes)))
  epoch = steps_per_epoch
  counts = range(multiple, min(epoch, most) + 1, multiple)
  return max((count for count in counts if epoch % count == 0), default=0)


def optimizer_init(exp: step.Experiment, mesh: Mesh) -> Any:
  """Returns the jitted function of params that initialises the optimizer.

  It is called where a phase begins.
  """
  return jax.jit(exp.tx.init, out_shardings=sharding.replicated(mesh))


def all_finite(mesh: Mesh) -> Any:
  """Returns `figures.all_finite` as a jitted function of a training state.

  It is called before every save.
  """
  return jax.jit(figures.all_finite, out_shardings=sharding.replicated(mesh))


def fold(exp: step.Experiment, image_size: int, mesh: Mesh) -> Any:
  """Returns `step.fold` as a jitted function of the teachers' variables.

  It is called once, before the first step.
  """
  shape = (1, image_size, image_size, 3)

  def fold(frozen):
    return step.fold(exp, frozen, jnp.zeros(shape))

  return jax.jit(fold, out_shardings=sharding.replicated(mesh))


def known_logits(
  exp: step.Experiment, train: resident.Training, mesh: Mesh
) -> Any:
  """Returns a function that computes the teachers' logits of a batch.

  Args:
    exp: The experiment.
    train: The training split.
    mesh: The devices.

  Returns:
    A jitted function of (frozen, arrays, feed), with a feed of
    `train.eval_feeds`. It returns [B,V,K] f32 for each teacher, for the V views
    of each image.
  """
  replicated = sharding.replicated(mesh)

  @functools.partial(
    jax.jit,
    in_shardings=(replicated, replicated, sharding.batched(mesh)),
    out_shardings=replicated,
  )
  def of_batch(frozen, arrays, feed):
    batch = train.eval_batch(arrays, feed)
    views = [
      _known_logits(exp, frozen, {**batch, 'image': image})
      for image in train.views(batch['image'])
    ]
    return jax.tree.map(lambda *xs: jnp.stack(xs, axis=1), *views)

  return of_batch


def _known_logits(exp: step.Experiment, frozen: Any, batch: Batch) -> Batch:
  """Returns the teachers' logits [N,K] f32, keyed as in a batch."""
  feats = step.teacher_features(exp, frozen, batch)
  return {known(name): features['logits'] for name, features in feats.items()}
