import jax
from jax import test_util
import numpy as np
import pytest
from scipy import special

from kd_jax import errors, losses
from tests import tiny
from tests.methods import vectors


@pytest.fixture
def case():
  return vectors.load('kd')[0]


@pytest.fixture
def logits():
  """The student's and the teacher's logits, which no file changes."""
  return np.random.default_rng(0).normal(size=(2, 4, 6)).astype(np.float32)


@pytest.mark.parametrize('temperature', [1, 2, 4])
def test_value_and_gradient_are_the_originals(case, temperature):
  value, grad = jax.value_and_grad(losses.kl)(
    case['in_logits_s'], case['in_logits_t'], float(temperature)
  )
  vectors.assert_near(value, case[f'out_kd_T{temperature}'])
  vectors.assert_near(grad, case[f'grad_s_T{temperature}'])


def test_repdistiller_and_simkd_mean_the_same(case):
  value = losses.kl(case['in_logits_s'], case['in_logits_t'], 4.0)
  vectors.assert_near(value, case['out_rep_T4'])
  vectors.assert_near(value, case['out_simkd_T4'])


def test_the_methods_weighted_total_is_the_originals(case):
  method = tiny.method('kd', temperature=4.0)

  def total(student):
    feats = {
      'student': {'logits': student},
      'teacher': {'logits': case['in_logits_t']},
    }
    batch = {'label': case['in_label'].astype(np.int32)}
    terms = method.apply({}, feats, batch)
    return 0.1 * terms['ce'] + 0.9 * terms['kd']

  value, grad = jax.value_and_grad(total)(case['in_logits_s'])
  vectors.assert_near(value, case['out_total_ce0.1_kd0.9_T4'])
  vectors.assert_near(grad, case['grad_s_total'])


def test_gradient_is_that_of_finite_differences(logits):
  student, teacher = logits
  test_util.check_grads(
    lambda s: losses.kl(s, teacher, 4.0),
    (student,),
    order=1,
    modes=['rev'],
    rtol=1e-2,  # float32 differences
    eps=1e-2,
  )


@pytest.mark.parametrize('temperature', [1.0, 4.0])
def test_gradient_is_that_of_the_formula_in_float64(case, temperature):
  student, teacher = case['in_logits_s'], case['in_logits_t']
  q, p = (
    special.softmax(x.astype(np.float64) / temperature, axis=1)
    for x in (student, teacher)
  )
  grad = jax.grad(losses.kl)(student, teacher, temperature)
  vectors.assert_near(grad, temperature * (q - p) / len(q))


def test_equal_logits_cost_nothing(logits):
  value, grad = jax.value_and_grad(losses.kl)(logits[0], logits[0], 4.0)
  assert abs(value) < 1e-6
  np.testing.assert_allclose(grad, 0, atol=1e-6)


def test_a_high_temperature_gives_the_squared_distance_of_centred_logits(
  logits,
):
  s, t = logits
  centred = (s - s.mean(1, keepdims=True)) - (t - t.mean(1, keepdims=True))
  want = (centred**2).sum(1).mean() / (2 * s.shape[1])
  np.testing.assert_allclose(losses.kl(s, t, 100.0), want, rtol=0.05)


def test_no_gradient_reaches_the_teacher(logits):
  assert not np.any(jax.grad(losses.kl, argnums=1)(*logits, 4.0))


def standardized_kd(student, teacher, temperature=2.0):
  """The method's term over standardised logits."""
  method = tiny.method('kd', temperature=temperature, standardize=True)
  feats = {'student': {'logits': student}, 'teacher': {'logits': teacher}}
  return method.apply({}, feats, {'label': np.zeros(len(student), int)})['kd']


def test_the_term_over_standardised_logits_is_the_originals():
  recent, _ = vectors.load('logits_recent')
  value, grad = jax.value_and_grad(standardized_kd)(
    recent['in_logits_student'], recent['in_logits_teacher']
  )
  vectors.assert_near(value, recent['out_ls_T2'])
  vectors.assert_near(grad, recent['grad_ls_T2_logits_student'])


def test_standardised_logits_have_mean_0_and_unbiased_variance_1(logits):
  got = losses.standardized(logits[0])
  np.testing.assert_allclose(got.mean(axis=1), 0, atol=1e-6)
  np.testing.assert_allclose(np.var(got, axis=1, ddof=1), 1, rtol=1e-5)


def test_only_the_ratio_of_standardised_logits_counts(logits):
  s, t = logits
  np.testing.assert_allclose(
    standardized_kd(3 * s + 5, t), standardized_kd(s, t), rtol=1e-4
  )
  np.testing.assert_allclose(standardized_kd(3 * t + 5, t), 0, atol=1e-6)


def test_the_cross_entropy_is_that_of_the_logits_as_they_are(logits):
  feats = {
    'student': {'logits': logits[0]},
    'teacher': {'logits': logits[1]},
  }
  batch = {'label': np.array([0, 3, 5, 1], np.int32)}
  plain, standardised = (
    tiny.method('kd', standardize=flag).apply({}, feats, batch)
    for flag in (False, True)
  )
  assert plain['ce'] == standardised['ce']
  assert plain['kd'] != standardised['kd']


def test_equal_logits_of_an_image_have_a_finite_standardised_gradient(logits):
  zeros = np.zeros_like(logits[0])
  for equal in (zeros, zeros + 7):
    value, grad = jax.value_and_grad(standardized_kd)(equal, logits[1])
    assert np.isfinite(value)
    assert np.isfinite(grad).all()


def test_the_standardised_gradient_is_that_of_finite_differences(logits):
  test_util.check_grads(
    lambda s: standardized_kd(s, logits[1]),
    (logits[0],),
    order=1,
    modes=['rev'],
    rtol=1e-2,
    eps=1e-2,
  )


NAMES = ('a', 'b', 'c')


def of_several(student, teachers, **args):
  """The term 'kd' of several teachers."""
  names = NAMES[: len(teachers)]
  method = tiny.method('kd', teachers=names, **args)
  feats = dict(zip(names, ({'logits': z} for z in teachers), strict=True))
  batch = {'label': np.zeros(len(student), np.int32)}
  return method.apply({}, {'student': {'logits': student}, **feats}, batch)[
    'kd'
  ]


@pytest.mark.parametrize('weights', [(), (1.0, 2.0, 5.0)])
@pytest.mark.parametrize('mean_of', ['probabilities', 'logits'])
def test_the_mean_of_teachers_is_numpys_in_float64(weights, mean_of):
  student, *teachers = np.random.default_rng(3).normal(scale=3, size=(4, 5, 7))
  t, shares = 2.5, np.array(weights or (1, 1, 1)) / sum(weights or (1, 1, 1))
  if mean_of == 'logits':
    z = np.tensordot(shares, teachers, 1)
    p = special.softmax(z / t, axis=1)
  else:
    each = special.softmax(np.array(teachers) / t, axis=2)
    p = np.tensordot(shares, each, 1)
  log_q = special.log_softmax(student / t, axis=1)
  want = t**2 * (p * (np.log(p) - log_q)).sum(axis=1).mean()
  args = {'teacher_weights': weights, 'mean_of': mean_of, 'temperature': t}

  def term(z):
    return of_several(z, [x.astype(np.float32) for x in teachers], **args)

  value, grad = jax.value_and_grad(term)(student.astype(np.float32))
  np.testing.assert_allclose(value, want, rtol=1e-5)
  np.testing.assert_allclose(
    grad, t * (np.exp(log_q) - p) / len(student), atol=1e-6
  )


@pytest.mark.parametrize('name', ['kd', 'dkd', 'dist'])
def test_two_equal_teachers_teach_as_one(logits, name):
  student, teacher = logits
  batch = {'label': np.zeros(len(student), np.int32)}
  feats = {
    key: {'logits': z}
    for key, z in (('student', student), ('a', teacher), ('b', teacher))
  }
  both, only = (
    tiny.method(name, teachers=names).apply({}, feats, batch)
    for names in (('a', 'b'), ('a',))
  )
  for term in only:
    np.testing.assert_allclose(both[term], only[term], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
  ('args', 'message'),
  [
    (
      {'teachers': ('a', 'b'), 'teacher_weights': (1.0,)},
      r'^teacher_weights=\(1\.0,\): give a number above 0 for each of '
      r"teachers=\('a', 'b'\)",
    ),
    ({'teacher_weights': (0.0,)}, r'^teacher_weights=\(0\.0,\): give a number'),
    ({'mean_of': 'logit'}, "value of mean_of: 'logit'; did you mean 'logits'"),
    ({'teachers': ()}, 'give 1 or more'),
    ({'teachers': 'a'}, r"give a tuple of names, such as \('a',\)"),
    ({'teachers': ('student',)}, 'the name of something else'),
  ],
)
def test_wrong_teachers_are_refused(args, message):
  with pytest.raises(errors.UsageError, match=message):
    tiny.method('kd', **args)
