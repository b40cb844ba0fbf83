"""Methods on segmentation: those that distil it, and the others' refusal."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import errors, models, tasks
from kd_jax.distill import build, inspect, optim, step
from kd_jax.methods import registry
from tests import few_scenes, tiny
from tests.cli import train_test
from tests.methods import contract_test

DENSE = [n for n in registry.names() if registry.method_class(n).is_dense]
OTHERS = sorted({*registry.names()} - {*DENSE})
SIZE, BATCH = few_scenes.SIZE, 4
TASK = tasks.find('segmentation')
# Those whose values are computed too.
COMPUTED = {
  'kd': {},
  'ofd': {
    'stages': (1, 2, 3, 4, 'aspp', 'decoder'),
    'divisors': (8.0, 4.0, 2.0, 1.0, 1.0, 16.0),
  },
  'fitnet': {},
  'at': {},
  'fpd': {'width': 16},
}


def network(widths=few_scenes.WIDTHS, **fields):
  """A DeepLab of a few channels."""
  fields = {**few_scenes.SMALL, 'widths': widths, **fields}
  return models.make('deeplab_resnet10_small', 11, **fields)


def experiment(case):
  """An experiment of a method on a student and a teacher."""
  name, args, is_equal = contract_test.ALL.get(case, (case, {}, False))
  args = COMPUTED.get(case, args)
  widths = few_scenes.WIDTHS if is_equal else (8, 8, 8, 16, 16)
  sgd = optim.transformation('sgd', lambda _: 0.1, weight_decay=1e-3)
  return tiny.experiment(
    tiny.method(name, **args, task=TASK),
    tx=optim.by_path([('.*', sgd)]),
    student=network(),
    teacher=network(
      widths, batch_norm='batch' if name == 'ofd' else 'auto', aspp_width=8
    ),
  )


@pytest.mark.parametrize(
  'case',
  [
    case
    for case, (name, *_) in contract_test.ALL.items()
    if name in DENSE and name not in COMPUTED
  ],
)
def test_a_step_of_each_dense_method_fits_segmentation(case):
  traced = inspect.trace(experiment(case), SIZE, BATCH)
  assert traced.deployed.groups == ('student',)


@pytest.mark.parametrize('name', COMPUTED)
def test_terms_and_gradients_are_finite_with_pixels_that_do_not_count(name):
  exp = experiment(name)
  rng = np.random.default_rng(0)
  label = rng.integers(0, 11, (BATCH, SIZE, SIZE)).astype(np.int32)
  label[:, :4] = 255
  batch = {
    'image': rng.normal(size=(BATCH, SIZE, SIZE, 3)).astype(np.float32),
    'label': label,
    'index': np.arange(BATCH, dtype=np.int32),
  }

  @jax.jit
  def updated(batch):
    frozen = {
      name: step.variables_of(net, jax.random.key(1), batch['image'])
      for name, net in exp.teachers.items()
    }
    state = step.init(exp, jnp.int32(0), frozen, batch)
    return state, *step.train_step(exp, 0, state, frozen, batch)

  before, after, terms = updated(batch)
  assert {*exp.method.terms} <= {*terms}
  for term, value in terms.items():
    assert np.isfinite(value), term
  for old, new in zip(
    jax.tree.leaves(before.params), jax.tree.leaves(after.params), strict=True
  ):
    assert np.isfinite(new).all()
    assert np.any(old != new)
