"""Steps whose frozen teacher runs ahead of the student.

A GPU computes one forward pass over many images in less time than several over
few. A teacher on running statistics sees each image by itself, so its features
for the next k steps may come from one pass over k batches, to rounding. The
student then takes its k steps, one after the other.
"""

from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Any

import jax
import jax.numpy as jnp

from kd_jax.distill import layout, step
from kd_jax.features import Batch, Terms, known


def train_steps(
  exp: step.Experiment,
  assemble: Callable[..., Batch],
  ahead: int,
  devices: int,
  seed: jax.Array,
  state: step.TrainState,
  frozen: Mapping[str, step.Variables],
  arrays: Any,
  feeds: Any,
) -> tuple[step.TrainState, Terms]:
  """Runs S steps in one dispatch, with the teachers `ahead` steps at a time.

  It is `step.train_steps` to rounding, on the same batches. If `ahead` does not
  divide S, the steps that are left make a smaller group: another loop, which is
  compiled too.

  Args:
    exp: The experiment, whose teachers see each image by itself.
    assemble: See `step.train_steps`.
    ahead: The steps k whose teachers' features come from one forward pass.
    devices: The number of devices that share a batch.
    seed: See `step.train_step`.
    state: See `step.train_step`.
    frozen: See `step.train_step`.
    arrays: The data on the devices.
    feeds: The host's feeds, stacked along a first axis [S].

  Returns:
    The state after the last step, and the scalars of every step, [S] each.
  """

  def batch(given):
    number, feed = given
    key = jax.random.fold_in(jax.random.key(seed), number)
    return assemble(arrays, feed, jax.random.fold_in(key, 1))

  def group(state, feeds):
    numbers = state.step + jnp.arange(_length(feeds), dtype=jnp.int32)
    # A loop and no `vmap`: each batch is computed as it is in a step alone.
    batches = jax.lax.map(batch, (numbers, feeds))
    taught = features(exp, frozen, batches, devices)

    def student_step(state, given):
      return step.train_step(exp, seed, state, frozen, *given)

    return jax.lax.scan(student_step, state, (batches, taught))

  count, scalars, done = _length(feeds), [], 0
  if count >= 2 * ahead:
    done = count // ahead * ahead
    groups = jax.tree.map(
      lambda x: x[:done].reshape(-1, ahead, *x.shape[1:]), feeds
    )
    state, terms = jax.lax.scan(group, state, groups)
    flat = jax.tree.map(lambda x: x.reshape(done, *x.shape[2:]), terms)
    scalars.append(flat)
  for first in range(done, count, ahead):
    chosen = slice(first, first + ahead)
    state, terms = group(state, jax.tree.map(itemgetter(chosen), feeds))
    scalars.append(terms)
  return state, jax.tree.map(lambda *xs: jnp.concatenate(xs), *scalars)


def features(
  exp: step.Experiment,
  frozen: Mapping[str, step.Variables],
  batches: Batch,
  devices: int,
) -> dict[str, dict[str, jax.Array]]:
  """Returns the teachers' taps for k batches, from one forward pass.

  Under jit, the taps that nobody reads are not computed, and not kept.

  Args:
    exp: The experiment, whose teachers see each image by itself.
    frozen: The teachers' variables by name.
    batches: The batches, [k,N,...] each.
    devices: The number of devices D that share a batch.

  Returns:
    Taps [k,N,...] f32, by the teacher's name and the tap's, of the teachers
    whose logits are not in the batches.
  """
  feats = step.teacher_features(exp, frozen, layout.join(batches, devices))
  taught = {
    name: {tap: x for tap, x in taps.items() if tap != 'params'}
    for name, taps in feats.items()
    if known(name) not in batches
  }
  return layout.part(taught, _length(batches), devices)


def _length(tree: Any) -> int:
  return jax.tree.leaves(tree)[0].shape[0]
