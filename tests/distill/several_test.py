"""Runs of several seeds in one program equal their own programs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.distill import jitted, optim, several, step
from kd_jax.runtime import sharding
from tests import tiny
from tests.distill import step_test

SEEDS = (0, 1, 2)


def one(seed, state, frozen, arrays, feeds):
  """A run of two numbers: its state, and what it has seen at each step."""
  seen = frozen['a'] * arrays['x'][feeds['index']] + frozen['b'] + seed
  return {'sum': state['sum'] + seen.sum()}, {'seen': seen}


def test_each_run_gets_the_arrays_that_are_its_own_and_those_that_all_share():
  shared, x = jnp.float32(2.0), jnp.arange(5.0)
  frozen = [{'a': shared, 'b': jnp.float32(10.0 * seed)} for seed in SEEDS]
  states = [{'sum': jnp.float32(seed)} for seed in SEEDS]
  feeds = [{'index': np.array([seed, seed + 2])} for seed in SEEDS]
  joined = several.joined(frozen)
  assert joined['a'] is shared
  assert len(joined['b'].arrays) == 3
  together = several.steps(
    one,
    jnp.array(SEEDS),
    states,
    joined,
    several.joined([{'x': x}] * 3),
    jax.tree.map(lambda *xs: np.stack(xs), *feeds),
  )
  for run, given in zip(
    together, zip(SEEDS, states, frozen, feeds, strict=True), strict=True
  ):
    seed, state, its, feed = given
    alone = one(seed, state, its, {'x': x}, feed)
    jax.tree.map(np.testing.assert_array_equal, run, alone)


def convolved(derive, kernel, image):
  """The loss of a convolution, and its gradient."""

  def objective(kernel):
    out = jax.lax.conv(image, kernel, (1, 1), 'SAME')
    return jnp.square(out).mean(), {'most': out.max()}

  return derive(objective, has_aux=True)(kernel)


def test_kernels_gradients_are_those_of_a_grouped_convolution():
  rng = np.random.default_rng(0)
  kernels = rng.normal(size=(3, 4, 2, 3, 3)).astype(np.float32)
  images = rng.normal(size=(3, 5, 2, 6, 6)).astype(np.float32)
  batched = jax.vmap(functools.partial(convolved, several.value_and_grad))
  program = str(jax.make_jaxpr(batched)(kernels, images))
  assert 'batch_group_count=3' in program  # which cuDNN knows
  one = functools.partial(convolved, jax.value_and_grad)
  want = [one(*given) for given in zip(kernels, images, strict=True)]
  got = batched(kernels, images)
  jax.tree.map(
    # A mean of 720 squares is rounded in another order.
    functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
    got,
    jax.tree.map(lambda *xs: np.stack(xs), *want),
  )


# What two steps may differ by, relative to the largest value of an array: the
# rounding of grouped convolutions, which BatchNorm over 8 images enlarges.
BOUND = 1e-4


@pytest.mark.drill
@pytest.mark.parametrize(
  ('method', 'ahead'),
  [('kd', 1), ('kd', 2), ('tf_fd', 1), ('ffsd', 1), ('crd', 1)],
)
def test_steps_of_three_seeds_in_one_program_equal_their_own(method, ahead):
  sgd = optim.transformation('sgd', lambda _: 0.1, weight_decay=1e-3)
  exp = tiny.experiment(
    tiny.method(method, **({'negatives': 4} if method == 'crd' else {})),
    tx=optim.by_path([('.*', sgd)]),
    student=tiny.Plain(),
    teacher=tiny.Plain(),
  )
  frozen = {n: tiny.variables(net, 1) for n, net in exp.teachers.items()}
  data, mesh = step_test.training(), sharding.make_mesh(1)
  init = jax.jit(
    functools.partial(step.init, exp), out_shardings=sharding.replicated(mesh)
  )
  alone = jitted.train_steps(exp, data.batch, mesh)
  together = jitted.train_steps_together(exp, data.batch, mesh, ahead)
  rng = np.random.default_rng(0)
  images = np.tile(np.arange(8, dtype=np.int32), (3, 2, 1))
  feeds = rng.permuted(images, axis=-1)  # CRD knows the classes of 8
  seeds = np.array(SEEDS, np.int32)

  def states():
    return [init(seed, frozen, tiny.batch()) for seed in seeds]

  got = together(seeds, states(), frozen, data.arrays, {'index': feeds})
  for seed, state, index, run in zip(seeds, states(), feeds, got, strict=True):
    want = alone(seed, state, frozen, data.arrays, {'index': index})
    for x, y in zip(jax.tree.leaves(run), jax.tree.leaves(want), strict=True):
      scale = np.abs(np.asarray(y, float)).max(initial=1e-3)
      worst = np.abs(np.asarray(x, float) - np.asarray(y)).max(initial=0)
      assert worst <= BOUND * scale
