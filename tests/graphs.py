"""What a traced program computes with."""

from jax.extend import core


def equations(jaxpr):
  """All equations of a program and of those that it calls."""
  for equation in jaxpr.eqns:
    yield equation
    for value in equation.params.values():
      if isinstance(value, core.ClosedJaxpr | core.Jaxpr):
        yield from equations(getattr(value, 'jaxpr', value))


def convolutions(jaxpr):
  """The equations of a program's convolutions, in order."""
  return [
    equation
    for equation in equations(jaxpr)
    if equation.primitive.name == 'conv_general_dilated'
  ]
