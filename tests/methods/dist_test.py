import jax
from jax import test_util
import numpy as np
import pytest
from scipy import special

from kd_jax import losses
from tests import tiny
from tests.methods import vectors


@pytest.fixture
def logits():
  """The student's and the teacher's."""
  rng = np.random.default_rng(0)
  return rng.normal(size=(2, 6, 10)).astype(np.float32)


def terms(student, teacher, temperature=1.0):
  feats = {'student': {'logits': student}, 'teacher': {'logits': teacher}}
  label = np.zeros(len(student), np.int32)
  method = tiny.method('dist', dist_temperature=temperature)
  return method.apply({}, feats, {'label': label})


def total(student, teacher, temperature=1.0):
  found = terms(student, teacher, temperature)
  return 2 * found['inter'] + 2 * found['intra']


def test_both_terms_and_their_gradient_are_the_originals():
  case, _ = vectors.load('logits_recent')
  logits = case['in_logits_student'], case['in_logits_teacher']
  found = terms(*logits)
  vectors.assert_near(found['inter'], case['out_dist_inter'])
  vectors.assert_near(found['intra'], case['out_dist_intra'])
  value, grad = jax.value_and_grad(total)(*logits)
  vectors.assert_near(value, case['out_dist_total_b2_g2_T1'])
  want = case['grad_dist_total_b2_g2_T1_logits_student']
  vectors.assert_near(grad, want)


def correlations(student, teacher, temperature):
  """Both terms in float64, by NumPy."""
  q, p = (
    special.softmax(x.astype(np.float64) / temperature, axis=1)
    for x in (student, teacher)
  )
  found = {}
  for name, a, b in (('inter', q, p), ('intra', q.T, p.T)):
    rho = [np.corrcoef(*rows)[0, 1] for rows in zip(a, b, strict=True)]
    found[name] = temperature**2 * (1 - np.mean(rho))
  return found


@pytest.mark.parametrize('temperature', [1.0, 4.0])
def test_terms_are_numpys_correlations_of_images_and_classes(
  logits, temperature
):
  found, want = terms(*logits, temperature), correlations(*logits, temperature)
  for name in want:
    np.testing.assert_allclose(found[name], want[name], rtol=1e-3)


def test_the_gradient_at_a_temperature_is_numpys_in_float64(logits):
  student, teacher = logits
  way = np.random.default_rng(1).normal(size=student.shape)
  sides = (
    sum(correlations(student + step * way, teacher, 4.0).values())
    for step in (1e-6, -1e-6)
  )
  want = 2 * np.subtract(*sides) / 2e-6
  got = (jax.grad(total)(student, teacher, 4.0) * way).sum()
  np.testing.assert_allclose(got, want, rtol=1e-3)


def test_equal_logits_cost_almost_nothing(logits):
  _, teacher = logits
  found = terms(teacher, teacher + 3)
  assert abs(found['inter']) < 1e-3
  assert abs(found['intra']) < 1e-3


def test_probabilities_in_any_linear_relation_cost_no_inter_term(logits):
  _, teacher = logits
  p = special.softmax(teacher.astype(np.float64), axis=1)
  flatter = np.log(0.5 * p + 0.5 / p.shape[1]).astype(np.float32)
  assert abs(losses.inter_class(flatter, teacher, 1.0)) < 1e-3
  assert losses.kl(flatter, teacher, 1.0) > 1e-2


def test_a_uniform_student_and_a_batch_of_one_have_finite_gradients(logits):
  student, teacher = logits
  for s, t in ((0 * student, teacher), (student[:1], teacher[:1])):
    value, grad = jax.value_and_grad(total)(s, t)
    assert np.isfinite(value)
    assert np.isfinite(grad).all()


def test_the_gradient_is_that_of_finite_differences(logits):
  student, teacher = logits
  test_util.check_grads(
    lambda s: total(s, teacher),
    (student,),
    order=1,
    modes=['rev'],
    rtol=1e-2,  # float32 differences
  )


def test_no_gradient_reaches_the_teacher(logits):
  assert not np.any(jax.grad(total, argnums=1)(*logits))
