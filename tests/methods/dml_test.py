import jax
from jax import test_util
import numpy as np
import pytest
from scipy import special

from kd_jax import errors
from tests import tiny


def made(count, n=5, classes=7):
  """The method with so many students, their logits and a batch."""
  names = tuple(f's{i}' for i in range(count))
  rng = np.random.default_rng(count)
  logits = {
    name: rng.normal(scale=2, size=(n, classes)).astype(np.float32)
    for name in names
  }
  label = rng.integers(0, classes, n).astype(np.int32)
  return tiny.method('dml', students=names), logits, {'label': label}


def terms(method, logits, batch):
  feats = {name: {'logits': z} for name, z in logits.items()}
  return method.apply({}, feats, batch)


def of_paper(logits, others, label):
  """The loss of one student by equation 7, in float64 by NumPy."""
  q = special.log_softmax(logits, axis=1)
  ce = -q[np.arange(len(label)), label].mean()
  peers = [special.log_softmax(z, axis=1) for z in others]
  kl = [(np.exp(p) * (p - q)).sum(axis=1).mean() for p in peers]
  return ce + np.mean(kl)


def gradient_of_paper(logits, others, label):
  """Its gradient by these logits; those of the others are constants."""
  q = special.softmax(logits, axis=1)
  p = np.mean([special.softmax(z, axis=1) for z in others], axis=0)
  right = np.eye(logits.shape[1])[label]
  return ((q - right) + (q - p)) / len(label)


@pytest.mark.parametrize('count', [2, 3])
def test_the_loss_and_its_gradient_are_the_papers_in_float64(count):
  method, logits, batch = made(count)

  def total(logits):
    return sum(terms(method, logits, batch).values())

  value, grads = jax.value_and_grad(total)(logits)
  wide = {name: z.astype(np.float64) for name, z in logits.items()}
  want = 0
  for name in wide:
    others = [z for other, z in wide.items() if other != name]
    want += of_paper(wide[name], others, batch['label'])
    np.testing.assert_allclose(
      grads[name],
      gradient_of_paper(wide[name], others, batch['label']),
      atol=1e-6,  # of float32 sums
    )
  np.testing.assert_allclose(value, want, rtol=1e-6)


def test_the_gradient_of_a_student_is_that_of_finite_differences():
  method, logits, batch = made(2)

  def mutual(z):
    # The term of the other student reads these logits as a constant.
    return terms(method, {**logits, 's0': z}, batch)['ce']

  test_util.check_grads(mutual, (logits['s0'],), 1, ['rev'], rtol=1e-2)


def test_students_that_agree_teach_each_other_nothing():
  method, logits, batch = made(2)
  same = dict.fromkeys(logits, logits['s0'])
  assert abs(terms(method, same, batch)['mutual']) < 1e-6


def test_the_first_student_is_deployed():
  method, logits, _ = made(3)
  feats = {name: {'logits': z} for name, z in logits.items()}
  found = method.apply({}, feats, method='predict')
  assert list(found) == ['s0', 's1', 's2'] == list(method.students)


@pytest.mark.parametrize(
  ('students', 'message'),
  [
    (('a',), 'give 2 or more'),
    (('a', 'a'), "'a' is the name of something else"),
    (('a', 'method'), "'method' is the name of something else"),
    (('a', '../b'), 'letters, digits and _'),
  ],
)
def test_wrong_names_are_refused(students, message):
  with pytest.raises(errors.ArgumentError, match=message) as raised:
    tiny.method('dml', students=students)
  assert str(raised.value).startswith('students=')
