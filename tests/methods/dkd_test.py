import jax
from jax import test_util
import numpy as np
import pytest
from scipy import special

from kd_jax import losses
from tests import tiny
from tests.methods import vectors

T = 4.0


@pytest.fixture
def case():
  return vectors.load('dkd')[0]


def given(case):
  """The student's and the teacher's logits, and the labels."""
  label = case['in_label'].astype(np.int32)
  return case['in_logits_s'], case['in_logits_t'], label


@pytest.fixture
def drawn():
  """Logits and labels which no file changes."""
  logits = np.random.default_rng(0).normal(size=(2, 4, 10)).astype(np.float32)
  return *logits, np.array([0, 3, 9, 1], np.int32)


def term(student, teacher, label, **args):
  """The method's own term."""
  feats = {'student': {'logits': student}, 'teacher': {'logits': teacher}}
  method = tiny.method('dkd', temperature=T, **args)
  return method.apply({}, feats, {'label': label})['dkd']


def test_both_parts_are_the_originals(case):
  vectors.assert_near(losses.tckd(*given(case), T), case['out_tckd'])
  vectors.assert_near(losses.nckd(*given(case), T), case['out_nckd'])


def test_the_term_and_its_gradient_are_the_originals(case):
  value, grad = jax.value_and_grad(term)(*given(case), alpha=1.0, beta=8.0)
  vectors.assert_near(value, case['out_dkd_a1_b8_T4'])
  vectors.assert_near(grad, case['grad_s'])


def test_kd_is_the_parts_with_the_teachers_own_doubt_as_beta(drawn):
  # Equation 7 of the paper, image by image.
  student, teacher, label = drawn
  p = jax.nn.softmax(teacher / T)
  for i in range(len(label)):
    one = student[i : i + 1], teacher[i : i + 1], label[i : i + 1]
    got = term(*one, alpha=1.0, beta=1 - float(p[i, label[i]]))
    want = losses.kl(*one[:2], T)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_equal_logits_cost_nothing(drawn):
  _, teacher, label = drawn
  value, grad = jax.value_and_grad(term)(teacher, teacher, label)
  assert abs(value) < 1e-5
  np.testing.assert_allclose(grad, 0, atol=1e-5)


def test_the_labels_logit_moves_only_the_target_class_part(drawn):
  student, teacher, label = drawn
  raised = student + 2 * np.eye(student.shape[1], dtype=np.float32)[label]
  before, after = (
    (losses.tckd(x, teacher, label, T), losses.nckd(x, teacher, label, T))
    for x in (student, raised)
  )
  assert abs(after[0] - before[0]) > 1e-3
  np.testing.assert_allclose(after[1], before[1], rtol=1e-4)


def test_soft_labels_count_as_their_likeliest_class(drawn):
  student, teacher, label = drawn
  soft = 0.7 * np.eye(student.shape[1], dtype=np.float32)[label] + 0.03
  assert term(student, teacher, soft) == term(student, teacher, label)


def test_certain_networks_have_finite_values_and_gradients(drawn):
  student, teacher, label = drawn
  for scale in (0.0, 1e4):
    value, grad = jax.value_and_grad(term)(
      scale * student, scale * teacher, label
    )
    assert np.isfinite(value)
    assert np.isfinite(grad).all()


def test_standardised_logits_forget_their_scale(drawn):
  student, teacher, label = drawn
  value, scaled = (
    term(factor * student, teacher, label, standardize=True)
    for factor in (1, 3)
  )
  np.testing.assert_allclose(scaled, value, rtol=1e-4)
  want = term(losses.standardized(student), losses.standardized(teacher), label)
  np.testing.assert_allclose(value, want, rtol=1e-6)


def test_the_gradient_is_that_of_finite_differences(drawn):
  student, teacher, label = drawn
  test_util.check_grads(
    lambda s: term(s, teacher, label),
    (student,),
    order=1,
    modes=['rev'],
    rtol=1e-2,  # float32 differences
    eps=1e-2,
  )


def gradient(student, teacher, label, alpha=1.0, beta=8.0):
  """The gradient of the term by its formula, in float64."""
  rows, target = np.arange(len(label)), np.eye(student.shape[1])[label]
  z_s, z_t = (x.astype(np.float64) / T for x in (student, teacher))
  q, p = special.softmax(z_s, axis=1), special.softmax(z_t, axis=1)
  q_label, p_label = q[rows, label, None], p[rows, label, None]
  # 1 - q of the label, without cancellation.
  q_others = (q * (1 - target)).sum(axis=1, keepdims=True)
  tckd = (q_label - p_label) / q_others * (target - q)
  among = np.where(target, -np.inf, 0)
  nckd = special.softmax(z_s + among, axis=1) - special.softmax(
    z_t + among, axis=1
  )
  return T * (alpha * tckd + beta * nckd) / len(label)


def test_the_gradient_is_that_of_the_formula_in_float64(case):
  grad = jax.grad(term)(*given(case), alpha=1.0, beta=8.0)
  vectors.assert_near(grad, gradient(*given(case)))


@pytest.mark.parametrize('lead', [20, 80, 90, 1000, 1e5])
def test_however_sure_the_teacher_is_its_other_classes_teach(drawn, lead):
  student, teacher, label = drawn
  before = losses.nckd(student, teacher, label, T)
  teacher = teacher.copy()
  teacher[np.arange(len(label)), label] = lead * T
  value, grad = jax.value_and_grad(losses.nckd)(student, teacher, label, T)
  np.testing.assert_allclose(value, before, rtol=1e-5)
  want = gradient(student, teacher, label, alpha=0.0, beta=1.0)
  vectors.assert_near(grad, want)


def test_no_gradient_reaches_the_teacher(drawn):
  assert not np.any(jax.grad(term, argnums=1)(*drawn))
