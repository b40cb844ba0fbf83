"""Networks in Flax NNX are networks like all others."""

import functools

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import errors, models
from kd_jax.distill import step
from kd_jax.models import nnx_network


class Small(nnx.Module):
  """A convolution, a BatchNorm, dropout and a classifier."""

  def __init__(self, num_classes, *, rngs):
    self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
    self.norm = nnx.BatchNorm(4, rngs=rngs)
    self.dropout = nnx.Dropout(0.5, rngs=rngs)
    self.fc = nnx.Linear(4, num_classes, rngs=rngs)

  def __call__(self, images, *, train):
    x = self.norm(self.conv(images), use_running_average=not train)
    x = nnx.relu(x)
    pooled = self.dropout(x.mean(axis=(1, 2)), deterministic=not train)
    return {'stage1': x, 'pooled': pooled, 'logits': self.fc(pooled)}


class Wrong(Small):
  def __call__(self, images, *, train):
    return super().__call__(images, train=train)['pooled']


Student = functools.partial(nnx_network.NNX, network=Small)
IMAGES = np.random.default_rng(0).normal(size=(6, 8, 8, 3)).astype(np.float32)


@functools.cache
def made():
  """The network by its name, and its first variables."""
  network = models.make('tests.models.nnx_network_test:Student', 5)
  init = jax.jit(functools.partial(step.variables_of, network))
  return network, init(jax.random.key(0), IMAGES)


def run(variables, *, train, seed=0):
  network, _ = made()
  feats, changed = jax.jit(
    lambda v: step.run(
      'student',
      network,
      v,
      IMAGES,
      train=train,
      mutable=['batch_stats'],
      rngs={'dropout': jax.random.key(seed)},
    )
  )(variables)
  return feats, changed['batch_stats']


# The layers promote ranks.
@pytest.fixture(autouse=True)
def _ranks():
  with jax.numpy_rank_promotion('allow'):
    yield


def test_its_taps_and_parameters_are_those_of_the_nnx_module():
  _, variables = made()
  assert set(variables) == {'params', 'batch_stats'}
  params = variables['params']['nnx']
  assert {name: set(layer) for name, layer in params.items()} == {
    'conv': {'kernel', 'bias'},
    'norm': {'scale', 'bias'},
    'fc': {'kernel', 'bias'},
  }
  feats, _ = run(variables, train=False)
  assert {'stage1', 'pooled', 'logits'} <= set(feats)
  fc = params['fc']
  want = feats['pooled'] @ fc['kernel'] + fc['bias']
  np.testing.assert_allclose(feats['logits'], want, rtol=1e-5, atol=1e-6)


def test_training_moves_statistics_and_drops_by_the_key():
  _, variables = made()
  before = variables['batch_stats']['nnx']['norm']['mean']
  feats, changed = run(variables, train=True)
  assert np.any(changed['nnx']['norm']['mean'] != before)
  assert (np.asarray(feats['pooled']) == 0).any()
  other, _ = run(variables, train=True, seed=1)
  assert np.any(other['pooled'] != feats['pooled'])
  _, kept = run(variables, train=False)
  np.testing.assert_array_equal(kept['nnx']['norm']['mean'], before)


def test_outputs_that_are_no_logits_are_refused_in_one_line():
  network = nnx_network.NNX(5, network=Wrong)
  with pytest.raises(errors.UsageError, match=r'the shape \(6, 4\)'):
    jax.eval_shape(
      lambda: network.init(jax.random.key(0), jnp.asarray(IMAGES), train=True)
    )
