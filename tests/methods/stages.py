"""Checks of methods without adapters whose term compares several stages."""

import jax
import numpy as np

from tests import tiny
from tests.methods import vectors


def maps(seed, shape=(2, 3, 3, 4)):
  """Returns a random map of a shape [N,H,W,C] f32."""
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def term(name, student, teacher):
  """Returns a method's term, where stage i of each network is its i-th map.

  Args:
    name: The name of the method.
    student: The student's maps, each [N,H,W,C] f32.
    teacher: The teacher's maps, each [N,H,W,C] f32.
  """
  taps = tuple(f'stage{i}' for i in range(1, len(student) + 1))
  logits = np.zeros((len(student[0]), tiny.CLASSES), np.float32)
  feats = {
    network: {**dict(zip(taps, stage_maps, strict=True)), 'logits': logits}
    for network, stage_maps in (('student', student), ('teacher', teacher))
  }
  method = tiny.method(name, taps=taps)
  return method.apply({}, feats, tiny.batch(len(logits)))[name]


def assert_original(name):
  """Asserts that the term and its gradients are the original's stored ones."""
  case, _ = vectors.load('feature_losses')
  count = sum(key.startswith(f'grad_{name}_') for key in case)
  student, teacher = (
    [vectors.nhwc(case[f'in_{letter}{i}']) for i in range(count)]
    for letter in 'st'
  )
  value, grads = jax.value_and_grad(term, 1)(name, student, teacher)
  vectors.assert_near(value, case[f'out_{name}'])
  least = vectors.largest(case, f'grad_{name}_')
  for i, grad in enumerate(grads):
    expected = vectors.nhwc(case[f'grad_{name}_{i}'])
    vectors.assert_near(grad, expected, least=least)
