"""Stochastic depth."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import errors, models
from kd_jax.models import layers


class Dropped(nn.Module):
  """A branch alone."""

  @nn.compact
  def __call__(self, x, train=True):
    return layers.drop_path(x, 0.25, train=train)


def test_an_image_has_the_whole_branch_or_none():
  x = jnp.arange(1.0, 4001.0).reshape(4000, 1, 1, 1) * jnp.ones((1, 2, 2, 1))
  got = Dropped().apply({}, x, rngs={'dropout': jax.random.key(0)})
  share = np.asarray(got / x)
  assert (share == share[:, :1, :1]).all()
  kept = share[:, 0, 0, 0] > 0
  np.testing.assert_allclose(share[kept], 4 / 3, rtol=1e-6)
  # Of 4000 images the share that keeps it has a deviation of 0.007.
  np.testing.assert_allclose(kept.mean(), 0.75, atol=0.03)
  np.testing.assert_array_equal(Dropped().apply({}, x, train=False), x)


def test_rates_grow_from_0_to_the_last():
  assert layers.rates(0.3, 4) == pytest.approx([0, 0.1, 0.2, 0.3])
  assert layers.rates(0.3, 1) == [0]


@pytest.mark.parametrize(
  ('name', 'blocks'), [('resnet8x4', 3), ('wrn_16_1', 6)]
)
def test_a_residual_network_draws_for_each_block_but_the_first(name, blocks):
  images = jnp.zeros((2, 8, 8, 3))

  def programs(**args):
    network = models.make(name, 10, **args)
    keys = {'params': jax.random.key(0), 'dropout': jax.random.key(1)}
    variables = jax.eval_shape(lambda: network.init(keys, images, train=True))
    return [
      str(
        jax.make_jaxpr(
          lambda v, train=train: network.apply(
            v, images, train=train, rngs=keys, mutable=['batch_stats']
          )[0]
        )(variables)
      )
      for train in (True, False)
    ]

  plain, dropping = programs(), programs(drop_path=0.2)
  assert dropping[1] == plain[1]
  assert plain[0].count('name=_bernoulli') == 0
  assert dropping[0].count('name=_bernoulli') == blocks - 1


def test_a_rate_of_1_is_refused():
  with pytest.raises(errors.UsageError, match='give 0 to less than 1'):
    models.make('resnet8x4', 10, drop_path=1.0)
