"""Every loss at its edges: tiny and huge features, leads, zeros, equal rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import losses
from tests.losses import losses_test

MAPS, VECTORS, LABELS = (
  losses_test.MAPS,
  losses_test.VECTORS,
  losses_test.LABELS,
)
# A third of the positions has no class.
DENSE = np.arange(4 * 6 * 6).reshape(4, 6, 6) % 12
PRIORS = (3, 8, 5)
# What priors are to predict; there are no objects in the last image.
CLASSES = np.int32([[0, 1, 0, 2, 0, 0, 0, 0], [4] + [0] * 7, [0] * 8])
INDEX = np.arange(12).reshape(6, 2) % 6
# What `losses_test.CALLS` does not have: (shape, the loss of a and b).
OTHERS = {
  'mean_of_teachers': (
    losses_test.VECTORS,
    lambda a, b: losses.kl(
      a, losses.mean_of_teachers([a, b], (1.0, 3.0), 4.0), 4.0
    ),
  ),
  'aligned': (MAPS, lambda a, b: sum(map(jnp.mean, losses.aligned(a, b)))),
  'attention_map': (MAPS, lambda a, _: losses.attention_map(a).mean()),
  'avg_pool_to': (MAPS, lambda a, _: losses.avg_pool_to(a, 2, 2).mean()),
  'contrastive': (
    VECTORS,
    lambda a, b: losses.contrastive(
      losses.similarities(losses.unit(a), losses.unit(b), INDEX, 0.07) / 6, 6
    ),
  ),
  'cross_entropy': (VECTORS, lambda a, _: losses.cross_entropy(a, LABELS)),
  'flow': (MAPS, lambda a, b: losses.flow(a, b).mean()),
  'guided_kl': (
    VECTORS,
    lambda a, b: losses.guided_kl(a, b, LABELS % 2 == 0, 4.0),
  ),
  'inter_layers': (MAPS, lambda a, b: losses.inter_layers([a, b, a])),
  'intra_layer': (MAPS, lambda a, _: losses.intra_layer(a)),
  'masked_cross_entropy': (
    MAPS,
    lambda a, _: losses.masked_cross_entropy(a, DENSE),
  ),
  'multibox': (
    PRIORS,
    lambda a, b: sum(losses.multibox(a[..., :4], b, CLASSES, b[..., 1:])),
  ),
  'multibox_kl': (
    PRIORS,
    lambda a, b: losses.multibox_kl(a, b, CLASSES, 4.0),
  ),
  'shifted_map': (MAPS, lambda a, _: losses.shifted_map(a).mean()),
  'softmax_weighted_sum': (
    VECTORS,
    lambda a, _: losses.softmax_weighted_sum(list(a[0])),
  ),
  'standardized': (
    VECTORS,
    lambda a, b: losses.kl(losses.standardized(a), losses.standardized(b), 2.0),
  ),
  'unit': (MAPS, lambda a, b: (losses.unit(a, (1, 2)) * losses.unit(b)).sum()),
}
# `margin` is computed once of a trained BatchNorm and has no gradient; the rest
# moves or counts entries, or is a part of what is here.
WITHOUT = {
  'classes', 'flat', 'kl_per_image', 'margin', 'multibox_selected',
  'position_cross_entropies', 'similarities',
}  # fmt: skip
# The largest features whose squares, or fourth powers, a float32 holds: of
# what grows with them, and of attention maps.
GROWING = {
  **dict.fromkeys(
    (
      'activation_boundary',
      'attention_map',
      'attention_transfer',
      'correlation',
      'factor_transfer',
      'flow',
      'hierarchical_context',
      'inter_layer',
      'inter_layers',
      'intra_layer',
      'mse',
      'partial_l2',
      'variational',
    ),
    1e15,
  ),
  'diversity': 1e7,
  'shifted_map': 1e7,
}


def cases():
  found = {
    name: (shape, lambda a, b, n=name, r=rest: getattr(losses, n)(a, b, *r))
    for name, (shape, rest) in losses_test.CALLS.items()
  }
  return {**found, **OTHERS}


def edges(shape, largest):
  """Pairs of arrays by name, none of whose entries is above `largest`."""
  a, b = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
  zeros, same = np.zeros_like(a), np.broadcast_to(a[:1], shape)
  found = {'zeros': (zeros, zeros), 'itself': (a, a), 'zero': (zeros, b)}
  found |= {'no target': (a, zeros), 'equal rows': (same, b)}
  found |= {'equal targets': (a, same), 'constant': (zeros + 7, b)}
  for scale in np.float32([1e-30, 1e-20, 1e-12, 1e-7, 1e7, 1e12, 1e15, 1e30]):
    lead = np.zeros_like(a)
    lead[..., 0] = 1
    for name, (x, y) in {
      'both': (scale * a, scale * b),
      'learner': (scale * a, b),
      'target': (a, scale * b),
      'apart': (scale * a, b / scale),
      'leading learner': (a + scale * lead, b),
      'leading target': (a, b + scale * lead),
      'opposite': (a - scale * lead, b + scale * lead),
    }.items():
      found[f'{name}, {scale:.0e}'] = x, y
  return {
    name: (x, y)
    for name, (x, y) in found.items()
    if max(np.abs(x).max(), np.abs(y).max()) < 5 * largest
  }


def test_every_loss_has_a_case():
  assert set(cases()) | WITHOUT == set(losses.__all__)


@pytest.mark.parametrize('name', cases())
def test_value_and_gradients_are_finite_at_the_edges(name):
  shape, loss = cases()[name]
  given = edges(shape, GROWING.get(name, 1e30))
  x, y = map(np.stack, zip(*given.values(), strict=True))
  found = jax.jit(jax.vmap(jax.value_and_grad(loss, argnums=(0, 1))))(x, y)
  for what, values in zip(('value', 'gradient'), found, strict=True):
    for part in jax.tree.leaves(values):
      finite = np.isfinite(part).reshape(len(given), -1).all(axis=1)
      bad = [edge for edge, fine in zip(given, finite, strict=True) if not fine]
      assert not bad, f'{what} at {bad}'
  assert np.any(found[0]), 'the value is 0 at every edge'


def test_the_margin_is_finite_at_the_edges():
  sizes = np.float32([0, 1e-30, 1e-7, 1, 1e7, 1e30])
  scale, bias = (x.ravel() for x in np.meshgrid(sizes, [*sizes, *-sizes]))
  found = losses.margin(scale, bias)
  assert np.isfinite(found).all()
  assert (np.asarray(found) <= 0).all()


LENGTHS = [1e-30, 1e-20, 3e-13, 3e-12, 1e-7, 1.0, 4e12, 1e19, 1e30]


@pytest.mark.parametrize('length', LENGTHS)
def test_unit_is_that_of_float64_at_every_length(length):
  rng = np.random.default_rng(0)
  x, weights = rng.normal(size=(2, 5, 7))
  x = (length * x / np.linalg.norm(x, axis=1)[:, None]).astype(np.float32)
  lengths = np.linalg.norm(x.astype(np.float64), axis=1)[:, None]
  want = x / np.maximum(lengths, 1e-12)
  along = want * (want * weights).sum(1)[:, None] * (lengths > 1e-12)
  want_grad = (weights - along) / np.maximum(lengths, 1e-12)
  got = losses.unit(x)
  grad = jax.grad(lambda x: (losses.unit(x) * weights).sum())(x)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=0)
  bound = 1e-6 * np.abs(want_grad).max()
  np.testing.assert_allclose(grad, want_grad, rtol=0, atol=bound)


def attention_of_float64(x):
  """The unit attention of `x`, and how its gradient is pulled back to `x`."""
  x = x.astype(np.float64)
  energy = np.square(x).mean(-1).reshape(len(x), -1)
  lengths = np.linalg.norm(energy, axis=1)[:, None]
  unit = energy / np.maximum(lengths, 1e-12)

  def pull(grad):
    along = unit * (unit * grad).sum(1)[:, None] * (lengths > 1e-12)
    grad = (grad - along) / np.maximum(lengths, 1e-12)
    return grad.reshape(*x.shape[:-1], 1) * 2 * x / x.shape[-1]

  return unit, pull


@pytest.mark.parametrize('scale', [1e-9, 1e-7, 1e-6, 1e-5, 1.0, 1e7, 1e15])
@pytest.mark.parametrize('name', ['attention_transfer', 'factor_transfer'])
def test_attention_is_that_of_float64_at_every_scale(name, scale):
  shape = (3, 4, 4, 5)
  s, t = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
  s = np.float32(scale) * s
  unit, pull = attention_of_float64(s)
  target, _ = attention_of_float64(t)
  power = {'attention_transfer': 2, 'factor_transfer': 1}[name]
  difference = unit - target
  want = (np.abs(difference) ** power).mean()
  slope = np.sign(difference) if power == 1 else 2 * difference
  want_grad = pull(slope / difference.size)
  got, grad = jax.value_and_grad(getattr(losses, name))(s, t)
  np.testing.assert_allclose(got, want, rtol=1e-5)
  bound = 1e-5 * np.abs(want_grad).max()
  np.testing.assert_allclose(grad, want_grad, rtol=0, atol=bound)
