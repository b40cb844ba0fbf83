"""The guard of the losses' shapes can fail, and every entry has a shape."""

import inspect

import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import losses
from tests.losses import shapes

FUNCTIONS = {
  name: inspect.unwrap(value)
  for name, value in vars(losses).items()
  if inspect.isfunction(value)
}


@pytest.mark.parametrize('name', FUNCTIONS)
def test_the_session_guards_every_loss(name):
  assert hasattr(getattr(losses, name), '__wrapped__')


@pytest.mark.parametrize('name', FUNCTIONS)
def test_every_array_argument_has_a_shape_in_its_entry(name):
  function = FUNCTIONS[name]
  allowed = shapes.documented(function)
  for argument, parameter in inspect.signature(function).parameters.items():
    if 'jax.Array' in inspect.formatannotation(parameter.annotation):
      assert allowed.get(argument), f'{name}: {argument}'


def test_other_shapes_and_dtypes_are_refused():
  logits, labels = jnp.zeros((4, 3)), np.arange(4) % 3
  losses.cross_entropy(logits, labels)
  with pytest.raises(shapes.MismatchError, match='labels is'):
    losses.cross_entropy(logits, np.arange(5) % 3)
  with pytest.raises(shapes.MismatchError, match='teacher is'):
    losses.kl(logits, jnp.zeros((4, 5)), 4.0)
  with pytest.raises(shapes.MismatchError, match='student is'):
    losses.kl(logits.astype(jnp.int32), logits, 4.0)
  with pytest.raises(shapes.MismatchError, match='teacher is'):
    losses.attention_transfer(jnp.zeros((2, 4, 4, 3)), jnp.zeros((2, 4, 4)))
