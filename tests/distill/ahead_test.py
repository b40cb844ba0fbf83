"""A teacher that runs several steps ahead in one forward pass."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.distill import ahead, jitted, layout, optim, step
from kd_jax.runtime import jaxprs, sharding
from tests import compiled, graphs, tiny
from tests.distill import step_test


def experiment(network, parts=1, method='kd', **kwargs):
  sgd = optim.transformation('sgd', lambda _: 0.1, weight_decay=1e-3)
  exp = tiny.experiment(
    tiny.method(method, **kwargs),
    tx=optim.by_path([('.*', sgd)]),
    student=network,
    teacher=network,
  )
  return exp._replace(accumulate_steps=parts)


def started(exp):
  """The first state, and the teachers' variables."""
  batch = tiny.batch()
  frozen = {
    name: step.variables_of(network, jax.random.key(1), batch['image'])
    for name, network in exp.teachers.items()
  }
  return step.init(exp, jnp.int32(0), frozen, batch), frozen


def given(data, count):
  """What a dispatch of `count` steps reads of the data."""
  feeds = [feed for feed, _ in zip(data.feeds(0), range(count), strict=False)]
  stacked = jax.tree.map(lambda *xs: np.stack(xs), *feeds)
  return jax.device_get(data.arrays), stacked


@pytest.mark.parametrize(
  ('steps', 'devices', 'parts'),
  [(5, 1, 1), (2, 2, 2)],  # two passes in a loop and a smaller one; one pass
)
def test_steps_with_the_teacher_ahead_are_those_without(steps, devices, parts):
  exp, data = experiment(step_test.Dense(), parts), step_test.training()
  start = jax.jit(functools.partial(started, exp))()
  arguments = jax.device_get((np.int32(0), *start, *given(data, steps)))
  results, exchanged = [], []
  for count in (1, 2):
    dispatch = jitted.train_steps(
      exp, data.batch, sharding.make_mesh(devices), ahead=count
    )
    program = dispatch.lower(*arguments).compile()
    results.append(jax.device_get(program(*arguments)))
    kinds = 'all-reduce|all-gather|all-to-all|collective-permute'
    exchanged.append(
      sorted(re.findall(rf'= (\S.*? (?:{kinds}))\(', program.as_text()))
    )
  # A pass over more images may sum its products in another order.
  near = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6)
  jax.tree.map(near, *results)
  # Devices send each other nothing more: no images, and no features.
  assert exchanged[0] == exchanged[1]


def test_the_batches_are_those_of_single_steps_to_the_bit(monkeypatch):
  data = step_test.training()
  state = step.TrainState(np.int32(0), {}, {}, {})

  def look(exp, seed, state, frozen, batch, taught=None):
    return state.replace(step=state.step + 1), batch

  monkeypatch.setattr(step, 'train_step', look)
  monkeypatch.setattr(ahead, 'features', lambda *_: {})
  batches = []
  for run in (
    functools.partial(step.train_steps, None, data.batch),
    functools.partial(ahead.train_steps, None, data.batch, 2, 1),
  ):
    run = jax.jit(run, compiler_options=compiled.AS_USERS)
    batches.append(run(np.int32(0), state, {}, *given(data, 5))[1])
  assert batches[0]['image'].shape == (5, 8, 8, 8, 3)
  # XLA of jax 0.7.1 divides by the deviation in another way in a loop.
  ulp = 0 if jax.__version_info__ >= (0, 10) else 4
  images = [batch.pop('image') for batch in batches]
  np.testing.assert_array_max_ulp(*images, maxulp=ulp)
  jax.tree.map(np.testing.assert_array_equal, *batches)


@functools.cache
def program(method, count, *taps):
  """A dispatch of `count` steps in one pass, as jit traces it, and pruned."""
  args = {'taps': taps} if taps else {}
  exp = experiment(tiny.Plain(), method=method, **args)
  data = step_test.training()
  start = jax.eval_shape(functools.partial(started, exp))
  run = functools.partial(ahead.train_steps, exp, data.batch, count, 1)
  traced = jax.make_jaxpr(run)(np.int32(0), *start, *given(data, count))
  return traced.jaxpr, jaxprs.pruned(traced)[0].jaxpr


def kept(jaxpr, steps):
  """The shapes that the loop over the steps takes one after the other."""
  return [
    x.aval.shape
    for equation in graphs.equations(jaxpr)
    if equation.primitive.name == 'scan'
    for x in equation.invars
    if x.aval.shape[:2] == (steps, 8)
  ]


def test_a_teacher_sees_the_images_of_all_its_steps_at_once():
  _, pruned = program('kd', 3)
  images = [
    equation.invars[0].aval.shape[0]
    for equation in graphs.equations(pruned)
    if equation.primitive.name == 'conv_general_dilated'
  ]
  assert images.count(3 * 8) == 4  # the teacher's convolutions


def test_only_what_the_method_reads_is_kept_for_later_steps():
  stage = (3, 8, 4, 4, 8)
  traced, pruned = program('kd', 3)
  assert stage in kept(traced, 3)
  assert stage not in kept(pruned, 3)
  assert (3, 8, tiny.CLASSES) in kept(pruned, 3)
  _, pruned = program('at', 3, 'stage2')
  assert stage in kept(pruned, 3)


@pytest.mark.parametrize('devices', [1, 2, 4])
def test_batches_are_parted_as_they_were_joined(devices):
  x = {'a': jnp.arange(3 * 8 * 2).reshape(3, 8, 2)}
  joined = layout.join(x, devices)
  assert joined['a'].shape == (24, 2)
  # The first device has its rows of the three batches, and no others.
  rows = jnp.concatenate(list(x['a'][:, : 8 // devices]))
  np.testing.assert_array_equal(joined['a'][: 24 // devices], rows)
  back = layout.part(joined, 3, devices)
  np.testing.assert_array_equal(back['a'], x['a'])


def test_cached_logits_stay_those_of_the_batch():
  exp = experiment(step_test.Dense())
  batches = jax.tree.map(lambda x: np.stack([x, x]), tiny.batch())
  batches['logits/teacher'] = np.ones((2, 8, tiny.CLASSES), np.float32)
  assert ahead.features(exp, {}, batches, 1) == {}
