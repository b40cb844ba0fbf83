"""What every method keeps, whatever it does: one case each, none left out."""

import functools
import importlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kd_jax import pytrees
from kd_jax.distill import inspect, optim, step
from kd_jax.methods import registry
from kd_jax.runtime import sharding
from kd_jax.training import report
from tests import tiny


def _cases():
  """(method, arguments, whether the teacher has such channels, student).

  A test file of a method may say in CONTRACT which arguments make the method
  small, by a case's name, in EQUAL which of these cases need a teacher with
  the student's channels, and in STUDENT a student with taps of its own.
  """
  found = {}
  for name in registry.names():
    try:
      module = importlib.import_module(f'tests.methods.{name}_test')
    except ModuleNotFoundError:
      continue
    equal = getattr(module, 'EQUAL', ())
    student = getattr(module, 'STUDENT', tiny.Plain())
    for case, args in getattr(module, 'CONTRACT', {'': {}}).items():
      found[f'{name} {case}'.strip()] = name, args, case in equal, student
  return found


ALL = _cases()


def experiment(case):
  name, args, equal, student = ALL[case]
  widths = (4, 4, 8, 16) if equal else (8, 8, 16, 32)
  sgd = optim.transformation('sgd', lambda _: 0.1, weight_decay=1e-3)
  return tiny.experiment(
    tiny.method(name, **args),
    tx=optim.by_path([('.*', sgd)]),
    student=student,
    teacher=tiny.Plain(widths),
  )


def batch_of(exp, frozen):
  """A batch of which the teacher, if there is one, gets half right."""
  batch = tiny.batch()
  for name, net in exp.teachers.items():
    logits = net.apply(frozen[name], batch['image'], train=False)
    right = np.asarray(logits.argmax(-1), np.int32)
    batch['label'] = np.where(np.arange(8) % 2, right, batch['label'])
  return batch


def frozen_of(exp):
  return {
    name: tiny.variables(net, seed=1) for name, net in exp.teachers.items()
  }


@functools.cache
def started(case):
  """The experiment, its first state, its teachers' variables, a batch."""
  exp = experiment(case)
  frozen = frozen_of(exp)
  batch = batch_of(exp, frozen)
  init = jax.jit(functools.partial(step.init, exp))
  return exp, init(np.int32(0), frozen, batch), frozen, batch


def test_every_method_has_a_test_file_and_a_case():
  assert {name for name, *_ in ALL.values()} == set(registry.names())


def test_every_method_checks_a_gradient_by_finite_differences():
  folder = pathlib.Path(__file__).parent
  for name in registry.names():
    text = (folder / f'{name}_test.py').read_text()
    assert 'check_grads(' in text, f'{name}_test.py lacks check_grads'


@pytest.mark.parametrize('case', ALL)
def test_each_term_trains_exactly_the_groups_it_declares(case):
  exp, state, frozen, batch = started(case)

  def terms(groups):
    feats = {}
    for name, net in {**exp.students, **exp.teachers}.items():
      other = frozen[name] if name in frozen else state.model_state[name]
      variables = {**other, 'params': groups[name]}
      feats[name], _ = step.run(
        name,
        net,
        variables,
        batch['image'],
        train=name in exp.students,
        mutable=['batch_stats'],
      )
    variables = {'params': groups['method'], **state.model_state['method']}
    found, _ = exp.method.apply(
      variables,
      feats,
      batch,
      rngs={'method': jax.random.key(0)},
      mutable=['metrics', 'batch_stats'],
    )
    return found

  groups = {**state.params, **{n: v['params'] for n, v in frozen.items()}}
  jacobian = jax.jit(jax.jacrev(terms))(groups)
  declared = exp.method.terms
  assert set(jacobian) == set(declared)
  for term, routes in declared.items():
    reached = {
      group
      for group, tree in jacobian[term].items()
      if any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(tree))
    }
    assert reached == set(routes), term
  # No adapter is left without a teacher.
  for path, _ in jax.tree_util.tree_leaves_with_path(state.params['method']):
    name = pytrees.path_name(path)
    leaves = [
      {
        pytrees.path_name(p): leaf
        for p, leaf in jax.tree_util.tree_leaves_with_path(tree['method'])
      }[name]
      for tree in jacobian.values()
    ]
    assert any(np.abs(leaf).max() > 0 for leaf in leaves), name


@pytest.mark.parametrize('case', ALL)
def test_a_step_on_four_devices_equals_a_step_on_one(case):
  exp, state, frozen, batch = started(case)

  def one(state, frozen, batch):
    return step.train_step(exp, jnp.int32(0), state, frozen, batch)

  results = []
  for devices in (1, 4):
    mesh = sharding.make_mesh(devices)
    whole, split = sharding.replicated(mesh), sharding.batched(mesh)
    compiled = jax.jit(
      one, in_shardings=(whole, whole, split), out_shardings=whole
    )
    results.append(jax.device_get(compiled(state, frozen, batch)))
  (state_1, terms_1), (state_4, terms_4) = results
  # Sums over the batch differ in order: float32 through batch norm.
  near = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
  jax.tree.map(near, terms_1, terms_4)
  jax.tree.map(near, state_1, state_4)
  same = jax.tree.map(
    lambda a, b: a.shape == b.shape and a.dtype == b.dtype, state, state_1
  )
  assert all(jax.tree.leaves(same))
  assert int(state_1.step) == int(state.step) + 1


@pytest.mark.parametrize('case', ALL)
def test_adapters_group_a_batch_as_bn_group_size_says(case):
  exp, state, frozen, batch = started(case)
  other = dict(state.model_state['method'])
  if 'batch_stats' not in other:
    return
  other['batch_stats'] = jax.tree.map(jnp.zeros_like, other['batch_stats'])

  def statistics(batch, size):
    """What one batch adds to the adapters' running statistics."""
    networks = (state.params, state.model_state, frozen, batch)
    _, moved = exp.method.clone(bn_group_size=size).apply(
      {'params': state.params['method'], **other},
      step.features_of(exp, *networks),
      batch,
      rngs={'method': jax.random.key(0)},
      mutable=['metrics', *other],
    )
    return moved['batch_stats']

  @jax.jit
  def grouped_and_apart(batch):
    halves = jax.tree.map(lambda x: x.reshape(2, 4, *x.shape[1:]), batch)
    apart = jax.vmap(lambda half: statistics(half, 0))(halves)
    return statistics(batch, 4), apart

  grouped, apart = grouped_and_apart(batch)
  near = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
  # float32 through batch norm
  jax.tree.map(lambda a, b: near(a, b.mean(axis=0)), grouped, apart)


@pytest.mark.parametrize('case', ALL)
def test_prediction_costs_what_is_deployed_alone(case):
  exp = experiment(case)
  kept = inspect.trace(exp, tiny.SIZE, 2).deployed
  if len(kept.groups) == 1:
    alone = report.cost(exp.students[kept.name], tiny.SIZE)
    assert kept.params == alone['params']
    assert kept.flops == pytest.approx(alone['flops'], rel=0.01)
  else:  # a deeper teacher costs nothing more: its convolutions are pruned
    deeper = {
      name: tiny.network(widths=net.widths)
      for name, net in exp.teachers.items()
    }
    again = inspect.trace(exp._replace(teachers=deeper), tiny.SIZE, 2)
    assert again.deployed == kept


@pytest.mark.parametrize('case', ALL)
def test_features_are_checked_without_data(case):
  exp = experiment(case)._replace(tx=optax.identity())
  feats = inspect.trace(exp, tiny.SIZE, 8).features
  assert set(feats) == {*exp.method.students, *exp.method.teachers}
