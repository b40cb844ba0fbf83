"""The time of a step's parts, each of which is compiled and timed by itself.

The parts do not add up to the step exactly. XLA fuses across them in the whole
step, the student's forward pass is in two of them, and a part by itself writes
results that the step keeps in registers or never makes.
"""

from collections.abc import Callable, Sequence
import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kd_jax.benchmark import case, cost, turns
from kd_jax.distill import step
from kd_jax.training import report

_INPUT = 'input: waiting for the host'


class Piece:
  """A part of a step.

  Attributes:
    label: What the part computes.
  """

  def __init__(self, label: str, function: Callable[..., Any], *args: Any):
    """Compiles `function` for its arguments."""
    self.label = label
    self._args = args
    self._compiled = jax.jit(function).lower(*args).compile()

  def turn(self, steps: int) -> cost.Turn:
    """Runs the part once for each step of a turn, and times it."""
    began = time.perf_counter()
    for _ in range(steps):
      out = self._compiled(*self._args)
    jax.block_until_ready(out)
    return cost.Turn(1e3 * (time.perf_counter() - began) / steps)


def of(whole: case.Case) -> list[Piece]:
  """Returns the parts of a configuration's step, for one batch."""
  exp, state, frozen = whole.exp, whole.state, whole.frozen
  copies = jax.tree.map(jnp.copy, (state.params, state.model_state))
  params, model_state = copies
  feed = {'index': jnp.arange(whole.batch_size, dtype=jnp.int32)}
  key = jax.random.key(0)
  arrays = whole.train.arrays
  batch = jax.jit(whole.train.batch)(arrays, feed, key)
  teachers = functools.partial(_teachers, exp)
  students = functools.partial(_students, exp)
  pieces = [Piece('augmentation', whole.train.batch, arrays, feed, key)]
  if exp.teachers:
    pieces.append(Piece('teacher, forward', teachers, frozen, batch))
  networks = {name: params[name] for name in exp.students}
  pieces += [
    Piece('student, forward', students, networks, model_state, batch),
    Piece(
      'student, forward and backward (CE alone)',
      jax.grad(functools.partial(_cross_entropy, exp)),
      networks,
      model_state,
      batch,
    ),
  ]
  feats = jax.jit(students)(networks, model_state, batch)
  feats |= jax.jit(teachers)(frozen, batch)
  pieces += [
    Piece(
      "the method's terms, forward and backward",
      jax.grad(functools.partial(_terms, exp), argnums=(0, 1)),
      {name: feats[name] for name in exp.students},
      params['method'],
      feats,
      model_state['method'],
      batch,
    ),
    Piece(
      'update',
      functools.partial(_update, exp),
      jax.tree.map(jnp.zeros_like, params),
      jax.tree.map(jnp.copy, state.opt_state),
      params,
    ),
  ]
  return pieces


def _teachers(exp: step.Experiment, frozen: Any, batch: Any) -> Any:
  return {
    name: step.run(
      name,
      network,
      frozen[name],
      step.seen_by(exp, name, batch['image']),
      train=False,
    )[0]
    for name, network in exp.teachers.items()
  }


def _students(
  exp: step.Experiment, params: Any, model_state: Any, batch: Any
) -> Any:
  """Returns the students' features in training mode, as plain dicts."""
  feats = {}
  for name, network in exp.students.items():
    collections = model_state[name]
    variables = {'params': params[name], **collections}
    feats[name], _ = step.run(
      name,
      network,
      variables,
      batch['image'],
      train=True,
      mutable=list(collections),
      rngs={'dropout': jax.random.key(0)},
    )
  return feats


def _cross_entropy(
  exp: step.Experiment, params: Any, model_state: Any, batch: Any
) -> jax.Array:
  feats = _students(exp, params, model_state, batch)
  terms = [
    exp.method.task.supervised(feats[name], batch) for name in exp.students
  ]
  return jnp.stack(terms).sum()


def _terms(
  exp: step.Experiment,
  students: Any,
  params: Any,
  feats: Any,
  other: Any,
  batch: Any,
) -> jax.Array:
  """Returns the weighted sum of the method's terms for known features."""
  terms, _ = exp.method.apply(
    {'params': params, **other},
    {**feats, **students},
    batch,
    rngs={name: jax.random.key(0) for name in ('method', 'dropout')},
    mutable=['metrics', *other],
  )
  zero = jnp.zeros((), jnp.int32)
  total = [exp.weights[name](zero) * value for name, value in terms.items()]
  return jnp.stack(total).sum()


def _update(
  exp: step.Experiment, grads: Any, opt_state: Any, params: Any
) -> Any:
  updates, opt_state = exp.tx.update(grads, opt_state, params)
  return optax.apply_updates(params, updates), opt_state


def figures(
  whole: case.Case, pieces: Sequence[Piece], times: turns.Times
) -> dict[str, dict[str, float]]:
  """Returns each part's time, and its share of the step, round by round.

  Args:
    whole: The configuration.
    pieces: The parts of its step.
    times: The times of every turn.

  Returns:
    By label: 'median', 'least' and 'most' in milliseconds, and 'share', the
    median of the shares in 0..1.
  """
  piece_ms = {
    piece.label: [turn.ms for turn in times[id(piece)]] for piece in pieces
  }
  step_ms = [turn.ms for turn in times[id(whole)]]
  all_ms = {_INPUT: [turn.host_ms for turn in times[id(whole)]], **piece_ms}
  return {
    name: {
      **turns.spread(ms),
      'share': float(np.median(np.divide(ms, step_ms))),
    }
    for name, ms in all_ms.items()
  }


def table(found: dict[str, dict[str, float]], whole: dict[str, Any]) -> str:
  """Returns the parts and the whole step as an aligned table."""
  parts = [
    (
      name,
      f'{values["median"]:.2f}',
      f'{values["least"]:.2f}-{values["most"]:.2f}',
      f'{100 * values["share"]:.0f}%',
    )
    for name, values in found.items()
  ]
  rows = [
    (f'part of a step of {whole["config"]}', 'ms', 'spread', 'of the step'),
    *parts,
    ('the whole step', f'{whole["ms"]:.2f}', '', '100%'),
  ]
  return (
    f'{report.table(rows)}\nEach part is compiled by itself: they do not add '
    "up to the step exactly. The student's\nforward pass is in two of them."
  )
