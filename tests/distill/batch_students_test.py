"""Students of one network, run as one with a further axis."""

import functools

import jax
import numpy as np
import pytest

from kd_jax.distill import optim, step
from tests import tiny

WIDER = tiny.Plain(widths=(4, 4, 8, 24))


def experiment(**students):
  sgd = optim.transformation('sgd', lambda _: 0.1, weight_decay=1e-3)
  tx = optim.by_path([('.*', sgd)])
  exp = tiny.experiment(tiny.method('dml'), tx=tx, student=tiny.Plain())
  return exp._replace(students={**exp.students, **students})


def parts(exp):
  """The functions of an experiment: its first state, and its step."""
  init = functools.partial(step.init, exp, 0, {})
  return init, lambda state, batch: step.train_step(exp, 0, state, {}, batch)


def test_a_step_of_students_in_one_differs_by_rounding_alone():
  exp, batch = experiment(), tiny.batch(4)
  state = jax.jit(parts(exp)[0])(batch)
  results = []
  for wanted in (False, True):
    _, train = parts(exp._replace(batch_students=wanted))
    results.append(jax.jit(train)(state, batch))
  # Gradients of up to 1, of sums in another order.
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    *results,
  )


@pytest.mark.parametrize(
  ('students', 'sizes', 'together'),
  [
    ({}, {}, True),
    ({'student_1': WIDER}, {}, False),
    ({}, {'student_1': 4}, False),
  ],
)
def test_equal_networks_of_the_same_images_have_half_the_convolutions(
  students, sizes, together
):
  exp = experiment(**students)._replace(sizes=sizes)
  counts = []
  for wanted in (False, True):
    init, train = parts(exp._replace(batch_students=wanted))
    batch = tiny.batch(4)
    text = str(jax.make_jaxpr(train)(jax.eval_shape(init, batch), batch))
    counts.append(text.count('conv_general_dilated['))
  assert counts[1] == counts[0] // (2 if together else 1)
