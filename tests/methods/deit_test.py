import jax
from jax import test_util
import numpy as np
import pytest
from scipy import special

from kd_jax import errors, models
from tests import tiny

STUDENT = models.make(
  'deit_tiny',
  tiny.CLASSES,
  image_size=tiny.SIZE,
  patch=4,
  embedding=8,
  heads=2,
  depth=1,
  stages=1,
)


@pytest.fixture
def logits():
  """Those of the class token, the distillation token and the teacher."""
  rng = np.random.default_rng(0)
  return rng.normal(size=(3, 6, 10)).astype(np.float32)


LABEL = np.array([3, 1, 4, 1, 5, 9], np.int32)


def terms(class_logits, distilled_logits, teacher, label=LABEL, **kwargs):
  feats = {
    'student': {
      'class_logits': class_logits,
      'distilled_logits': distilled_logits,
    },
    'teacher': {'logits': teacher},
  }
  return tiny.method('deit', **kwargs).apply({}, feats, {'label': label})


def test_the_hard_terms_are_cross_entropies_of_the_two_classifiers(logits):
  found = terms(*logits)
  log_p = special.log_softmax(logits.astype(np.float64), axis=-1)
  rows = np.arange(6)
  want = {
    'ce': -log_p[0][rows, LABEL].mean(),
    'distilled': -log_p[1][rows, logits[2].argmax(-1)].mean(),
  }
  for name in want:
    np.testing.assert_allclose(found[name], want[name], rtol=1e-5)


def test_the_soft_term_is_the_divergence_times_the_temperature_squared(logits):
  found = terms(*logits, hard=False, temperature=2.0)
  _, q, p = special.log_softmax(logits.astype(np.float64) / 2, axis=-1)
  want = 4 * (np.exp(p) * (p - q)).sum(axis=-1).mean()
  np.testing.assert_allclose(found['distilled'], want, rtol=1e-4)
  np.testing.assert_array_equal(found['ce'], terms(*logits)['ce'])


def test_mixed_labels_teach_the_class_token_alone(logits):
  mixed = np.full((6, 10), 0.1, np.float32)
  found, plain = terms(*logits, label=mixed), terms(*logits)
  want = -special.log_softmax(logits[0].astype(np.float64), axis=-1).mean()
  np.testing.assert_allclose(found['ce'], want, rtol=1e-5)
  np.testing.assert_array_equal(found['distilled'], plain['distilled'])


@pytest.mark.parametrize('hard', [True, False])
def test_the_gradient_is_that_of_finite_differences(logits, hard):
  *student, teacher = logits

  def total(a, b):
    return sum(terms(a, b, teacher, hard=hard).values())

  test_util.check_grads(
    total, tuple(student), order=1, modes=['rev'], rtol=1e-2
  )  # float32 differences


@pytest.mark.parametrize('hard', [True, False])
def test_no_gradient_reaches_the_teacher(logits, hard):
  grad = jax.grad(lambda t: terms(*logits[:2], t, hard=hard)['distilled'])
  assert not np.any(grad(logits[2]))


def test_a_student_without_the_token_is_refused_with_the_cure(logits):
  feats = {'student': {'logits': logits[0]}, 'teacher': {'logits': logits[2]}}
  with pytest.raises(errors.UsageError, match='distilled=True'):
    tiny.method('deit').apply({}, feats, {'label': LABEL})
