import jax
from jax import test_util
import numpy as np
import pytest

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


def test_kd_is_the_parts_with_the_teachers_own_doubt_as_beta(case):
  # Equation 7 of the paper, image by image.
  student, teacher, label = given(case)
  p = jax.nn.softmax(teacher / T)
  for i in range(len(label)):
    one = student[i : i + 1], teacher[i : i + 1], label[i : i + 1]
    got = term(*one, alpha=1.0, beta=1 - float(p[i, label[i]]))
    want = losses.kl(*one[:2], T)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_equal_logits_cost_nothing(case):
  _, teacher, label = given(case)
  value, grad = jax.value_and_grad(term)(teacher, teacher, label)
  assert abs(value) < 1e-5
  np.testing.assert_allclose(grad, 0, atol=1e-5)


def test_the_labels_logit_moves_only_the_target_class_part(case):
  student, teacher, label = given(case)
  raised = student + 2 * np.eye(student.shape[1], dtype=np.float32)[label]
  before, after = (
    (losses.tckd(x, teacher, label, T), losses.nckd(x, teacher, label, T))
    for x in (student, raised)
  )
  assert abs(after[0] - before[0]) > 1e-3
  np.testing.assert_allclose(after[1], before[1], rtol=1e-4)


def test_soft_labels_count_as_their_likeliest_class(case):
  student, teacher, label = given(case)
  soft = 0.7 * np.eye(student.shape[1], dtype=np.float32)[label] + 0.03
  assert term(student, teacher, soft) == term(student, teacher, label)


def test_certain_networks_have_finite_values_and_gradients(case):
  student, teacher, label = given(case)
  for scale in (0.0, 1e4):
    value, grad = jax.value_and_grad(term)(
      scale * student, scale * teacher, label
    )
    assert np.isfinite(value)
    assert np.isfinite(grad).all()


def test_standardised_logits_forget_their_scale(case):
  student, teacher, label = given(case)
  value, scaled = (
    term(factor * student, teacher, label, standardize=True)
    for factor in (1, 3)
  )
  np.testing.assert_allclose(scaled, value, rtol=1e-4)
  want = term(losses.standardized(student), losses.standardized(teacher), label)
  np.testing.assert_allclose(value, want, rtol=1e-6)


def test_the_gradient_is_that_of_finite_differences(case):
  student, teacher, label = given(case)
  test_util.check_grads(
    lambda s: term(s, teacher, label),
    (student,),
    order=1,
    modes=['rev'],
    rtol=1e-2,  # float32 differences
  )


def test_no_gradient_reaches_the_teacher(case):
  assert not np.any(jax.grad(term, argnums=1)(*given(case)))
