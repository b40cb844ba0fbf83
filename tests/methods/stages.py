"""Methods without adapters whose term compares the maps of several stages."""

import jax
import numpy as np

from tests import tiny
from tests.methods import vectors


def maps(seed, shape=(2, 3, 3, 4)):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def term(name, student, teacher):
  """A method's term where stage i of each network is its i-th map."""
  taps = tuple(f'stage{i}' for i in range(1, len(student) + 1))
  logits = np.zeros((len(student[0]), tiny.CLASSES), np.float32)
  feats = {
    network: {**dict(zip(taps, found, strict=True)), 'logits': logits}
    for network, found in (('student', student), ('teacher', teacher))
  }
  method = tiny.method(name, taps=taps)
  return method.apply({}, feats, tiny.batch(len(logits)))[name]


def assert_original(name):
  """The term and its gradients are the stored ones of the original."""
  case, _ = vectors.load('feature_losses')
  count = sum(key.startswith(f'grad_{name}_') for key in case)
  student, teacher = (
    [vectors.nhwc(case[f'in_{n}{i}']) for i in range(count)] for n in 'st'
  )
  value, grads = jax.value_and_grad(term, 1)(name, student, teacher)
  vectors.assert_near(value, case[f'out_{name}'])
  least = vectors.largest(case, f'grad_{name}_')
  for i, grad in enumerate(grads):
    want = vectors.nhwc(case[f'grad_{name}_{i}'])
    vectors.assert_near(grad, want, least=least)
