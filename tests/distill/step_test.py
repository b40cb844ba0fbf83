import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kd_jax.data import augment, resident, source
from kd_jax.distill import figures, optim, step
from kd_jax.features import tap
from kd_jax.models import layers
from kd_jax.runtime import sharding
from tests import compiled, tiny


class Dense(nn.Module):
  """A network without convolutions, which XLA:CPU computes alike in a loop."""

  num_classes: int = tiny.CLASSES

  @nn.compact
  def __call__(self, images, *, train):
    x = images.reshape(len(images), -1)
    x = layers.BatchNorm(name='bn')(layers.Linear(16)(x), train=train)
    x = tap(self, 'stage1', nn.relu(x))
    return tap(self, 'logits', layers.Linear(self.num_classes, name='fc')(x))


def training(batch_size=8):
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (40, 8, 8, 3)).astype(np.uint8)
  label = rng.integers(0, tiny.CLASSES, 40).astype(np.int32)
  info = source.Info('x', tuple('0123456789'), 8, 40, 0, (0.5,) * 3, (0.2,) * 3)
  return resident.Training(
    source.Arrays(image, label),
    info,
    sharding.make_mesh(1),
    batch_size=batch_size,
    seed=0,
    crop_flip=augment.CropFlip(1, 'zero', True),
  )


def run(student, chunks):
  """Trains kd on `student` for sum(chunks) steps, chunk by chunk."""
  sgd = optim.transformation('sgd', lambda _: 0.1, weight_decay=1e-3)
  tx = optim.by_path([('.*', sgd)])
  exp = tiny.experiment(tiny.method('kd'), tx=tx, student=student)
  frozen = {'teacher': tiny.variables(exp.teachers['teacher'], seed=1)}
  data = training()
  whole = sharding.replicated(sharding.make_mesh(1))
  init = jax.jit(functools.partial(step.init, exp), out_shardings=whole)
  state = init(np.int32(0), frozen, tiny.batch())
  steps = jax.jit(
    functools.partial(step.train_steps, exp, data.batch),
    out_shardings=whole,
    compiler_options=compiled.AS_USERS,  # some tests compare to the bit
  )
  found, coming = [], data.feeds(0)
  for count in chunks:
    feeds = [next(coming) for _ in range(count)]
    stacked = jax.tree.map(lambda *xs: np.stack(xs), *feeds)
    state, terms = steps(np.int32(0), state, frozen, data.arrays, stacked)
    found.append(terms)
  terms = jax.tree.map(lambda *xs: np.concatenate(xs), *found)
  return state, terms


def test_several_steps_a_dispatch_equal_single_ones_bit_for_bit():
  one, terms_one = run(Dense(), [1] * 6)
  many, terms_many = run(Dense(), [6])
  jax.tree.map(np.testing.assert_array_equal, one, many)
  jax.tree.map(np.testing.assert_array_equal, terms_one, terms_many)
  assert int(many.step) == 6


def test_with_convolutions_they_agree_to_rounding():
  one, _ = run(tiny.network(), [1] * 3)
  many, _ = run(tiny.network(), [3])
  # XLA:CPU sums weight gradients of convolutions in another order in a loop.
  near = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
  jax.tree.map(near, one, many)


def traces(counts):
  """How often a network's code is walked through in such dispatches."""
  found = []

  class Counted(Dense):
    def __call__(self, images, *, train):
      found.append((images.shape, train))
      return super().__call__(images, train=train)

  run(Counted(), counts)
  return found


def test_steps_of_one_run_are_traced_once():
  assert traces([1, 1, 1]) == traces([1])


def test_a_network_with_a_list_in_a_field_is_trained_too():
  class Listed(Dense):
    sizes: list[int] | None = None

  state, _ = run(Listed(sizes=[1, 2]), [1])
  same, _ = run(Dense(), [1])
  jax.tree.map(np.testing.assert_array_equal, state, same)


def test_networks_that_differ_by_a_fields_type_alone_are_two():
  class Scaled(Dense):
    factor: float | str = 1.0

    def __call__(self, images, *, train):
      half = isinstance(self.factor, int)
      return super().__call__(images * (0.5 if half else 1.0), train=train)

  (_, whole), (_, half) = (
    run(Scaled(factor=1.0), [1]),
    run(Scaled(factor=1), [1]),
  )
  assert whole['total'] != half['total']


def test_a_network_is_walked_through_once_for_equal_shapes_and_mode():
  assert len(traces([1])) == 3  # to begin, in training, as the teacher


def test_weights_are_schedules_of_the_step():
  weights = {
    'ce': optim.schedule(1.0, 5, 10),
    'kd': optim.schedule(
      {'kind': 'linear', 'start': 0.0, 'value': 1.0, 'epochs': 2}, 5, 10
    ),
  }
  exp = tiny.experiment(
    tiny.method('kd'),
    tx=optim.by_path([('.*', optim.transformation('sgd', lambda _: 0.1))]),
    weights=weights,
    student=Dense(),
  )
  frozen = {'teacher': tiny.variables(exp.teachers['teacher'])}
  batch = tiny.batch()
  state = step.init(exp, jnp.int32(0), frozen, batch)
  state = state.replace(step=jnp.int32(5))
  _, terms = step.train_step(exp, jnp.int32(0), state, frozen, batch)
  assert float(terms['weighted/kd']) == pytest.approx(
    0.5 * float(terms['loss/kd'])
  )
  total = float(terms['weighted/ce']) + float(terms['weighted/kd'])
  assert float(terms['total']) == pytest.approx(total)


def test_the_student_starts_the_same_under_every_method():
  batch = tiny.batch()
  tx = optim.by_path([('.*', optim.transformation('sgd', lambda _: 0.1))])
  starts = []
  for name in ('ce', 'fpd'):
    args = {'width': 16} if name == 'fpd' else {}
    exp = tiny.experiment(tiny.method(name, **args), tx=tx)
    frozen = {n: tiny.variables(net) for n, net in exp.teachers.items()}
    init = jax.jit(functools.partial(step.init, exp))
    starts.append(init(np.int32(3), frozen, batch).params['student'])
  jax.tree.map(np.testing.assert_array_equal, *starts)


class Plain(nn.Module):
  """A network without BatchNorm: a batch's parts do not meet in it."""

  @nn.compact
  def __call__(self, images, *, train):
    x = nn.relu(layers.Linear(16)(images.reshape(len(images), -1)))
    return tap(self, 'logits', layers.Linear(tiny.CLASSES, name='fc')(x))


def stepped(student, parts, tx=None, trained=None, devices=1):
  sgd = optim.transformation('sgd', lambda _: 0.1, weight_decay=1e-3)
  exp = tiny.experiment(
    tiny.method('kd'),
    tx=tx or optim.by_path([('.*', sgd)]),
    student=student,
    teacher=tiny.Plain(),
  )._replace(accumulate_steps=parts)
  if trained:
    exp = exp._replace(trained=trained)
  frozen = {'teacher': tiny.variables(exp.teachers['teacher'], seed=1)}
  batch = tiny.batch(16)
  mesh = sharding.make_mesh(devices)
  whole, split = sharding.replicated(mesh), sharding.batched(mesh)
  state = jax.jit(functools.partial(step.init, exp))(np.int32(0), frozen, batch)
  one = jax.jit(
    lambda s, f, b: step.train_step(exp, jnp.int32(0), s, f, b),
    in_shardings=(whole, whole, split),
    out_shardings=whole,
  )
  return jax.device_get((state, *one(state, frozen, batch)))


@pytest.mark.parametrize('devices', [1, 4])
def test_a_batch_in_parts_gives_the_gradient_of_the_whole(devices):
  _, whole, terms = stepped(Plain(), 1)
  _, parts, means = stepped(Plain(), 4, devices=devices)
  near = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
  jax.tree.map(near, whole, parts)
  jax.tree.map(near, terms, means)


def test_each_part_moves_the_running_statistics():
  before, after, _ = stepped(Dense(), 2)
  _, whole, _ = stepped(Dense(), 1)
  mean = [
    s.model_state['student']['batch_stats']['bn']['mean']
    for s in (before, whole, after)
  ]
  moved = [np.abs(m - mean[0]).sum() for m in mean[1:]]
  # Two updates of momentum 0.9 go 1.9 times as far as one.
  assert moved[1] / moved[0] == pytest.approx(1.9, rel=0.05)


def test_what_is_not_trained_neither_moves_nor_counts_in_the_gradient():
  before, after, terms = stepped(
    Dense(), 1, trained=lambda path: path.startswith('student/fc/')
  )
  stats = [s.model_state['student']['batch_stats'] for s in (before, after)]
  jax.tree.map(np.testing.assert_array_equal, *stats)
  _, _, both = stepped(Dense(), 1)
  assert 0 < float(terms['grad_norm']) < float(both['grad_norm'])


def test_clipping_bounds_the_norm_of_all_gradients_together():
  plain = optim.by_path(
    [('.*', optim.transformation('sgd', lambda _: 1.0, momentum=0.0))]
  )
  before, after, terms = stepped(
    Plain(), 1, tx=optax.chain(optax.clip_by_global_norm(0.5), plain)
  )
  moved = jax.tree.map(np.subtract, after.params, before.params)
  assert float(terms['grad_norm']) > 0.5
  assert float(optax.tree.norm(moved)) == pytest.approx(0.5, rel=1e-3)


def test_all_finite_sees_one_nan_among_many():
  tree = {'a': jnp.ones(3), 'n': jnp.int32(1)}
  assert figures.all_finite(tree)
  assert not figures.all_finite({**tree, 'b': jnp.array([1.0, jnp.nan])})


def test_a_folded_teacher_says_the_same_and_leaves_less_to_do():
  exp = tiny.experiment(tiny.method('kd'))
  frozen = {'teacher': tiny.variables(exp.teachers['teacher'], seed=1)}
  batch = tiny.batch()
  folded = jax.jit(functools.partial(step.fold, exp))(frozen, batch['image'])
  features = jax.jit(functools.partial(step.teacher_features, exp))
  want, found = (features(each, batch) for each in (frozen, folded))
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5),
    *(dict(each['teacher']) for each in (want, found)),
  )

  def flops(frozen):
    logits = jax.jit(lambda *given: features(*given)['teacher']['logits'])
    return logits.lower(frozen, batch).compile().cost_analysis()['flops']

  assert flops(folded) < flops(frozen)
