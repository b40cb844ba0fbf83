import jax
from jax import test_util
import numpy as np
import pytest
from scipy import integrate, stats

from kd_jax import errors, losses
from kd_jax.methods import adapters
from kd_jax.models import read_params
from tests import tiny
from tests.methods import vectors


def test_margins_are_the_originals():
  case, _ = vectors.load('ofd_margin')
  got = jax.jit(losses.margin)(case['in_gamma'], case['in_beta'])
  # The normal distribution function in float32.
  vectors.assert_near(got, case['out_margin'], rtol=1e-4)


@pytest.mark.parametrize(
  ('gamma', 'beta'), [(0.7, 0.3), (1.3, -2.0), (0.5, 0.9)]
)
def test_a_margin_is_the_mean_of_the_negative_part(gamma, beta):
  density = stats.norm(beta, gamma)
  mass = density.cdf(0)
  mean = integrate.quad(lambda x: x * density.pdf(x), -20, 0)[0] / mass
  got = losses.margin(np.array([gamma, -gamma]), np.array([beta, beta]))
  np.testing.assert_allclose(got, [mean, mean], rtol=1e-4)


def test_a_dead_channel_has_a_finite_margin_and_gradient():
  gamma, beta = np.array([0.0, 0.0]), np.array([-0.5, 0.5])
  value, grad = jax.value_and_grad(lambda g: losses.margin(g, beta).sum())(
    gamma
  )
  np.testing.assert_allclose(losses.margin(gamma, beta), [-0.5, 0.0])
  assert np.isfinite(value)
  assert np.isfinite(grad).all()


def test_the_distance_and_its_gradient_are_the_originals():
  case, _ = vectors.load('ofd_loss')
  s, t = vectors.nhwc(case['in_s']), vectors.nhwc(case['in_t'])
  margin = case['in_margin'].reshape(-1)
  mean, grad = jax.value_and_grad(losses.partial_l2)(s, t, margin)
  batch = len(s)
  vectors.assert_near(mean * batch, case['out_sum'])
  vectors.assert_near(grad * batch, vectors.nhwc(case['grad_s']))
  vectors.assert_near(mean / 1000, case['out_scaled_cifar'])
  vectors.assert_near(mean, case['out_mdistiller_batchmean'])


def test_the_connector_is_the_originals():
  case, _ = vectors.load('ofd_loss')
  x, t = vectors.nhwc(case['in_conn_x']), vectors.nhwc(case['in_t'])
  margin = case['in_margin'].reshape(-1)
  variables = {
    'params': {
      'conv': {'kernel': case['par_conn_0.weight'].transpose(2, 3, 1, 0)},
      'bn': {
        'scale': case['par_conn_1.weight'],
        'bias': case['par_conn_1.bias'],
      },
    },
    'batch_stats': {
      'bn': {
        'mean': case['par_conn_1.running_mean'],
        'var': case['par_conn_1.running_var'],
      }
    },
  }

  def loss(params, x):
    y, changed = adapters.Connector().apply(
      {**variables, 'params': params}, x, t.shape[-1], mutable=['batch_stats']
    )
    total = losses.partial_l2(y, t, margin) * len(x)
    return total, (y, changed['batch_stats'])

  (total, (y, stats)), (grads, grad_x) = jax.value_and_grad(
    loss, argnums=(0, 1), has_aux=True
  )(variables['params'], x)
  rtol = 1e-4  # through batch norm
  vectors.assert_near(y, vectors.nhwc(case['out_conn']), rtol)
  vectors.assert_near(total, case['out_conn_loss_sum'], rtol)
  keys = [key for key in case if key.startswith('grad_conn')]
  least = 1e-2 * max(np.abs(case[key]).max() for key in keys)
  kernel = grads['conv']['kernel'].transpose(3, 2, 0, 1)
  for got, key in (
    (grad_x, 'grad_conn_x'),
    (kernel, 'grad_conn_0.weight'),
    (grads['bn']['scale'], 'grad_conn_1.weight'),
    (grads['bn']['bias'], 'grad_conn_1.bias'),
  ):
    want = vectors.nhwc(case[key]) if key.endswith('x') else case[key]
    vectors.assert_near(got, want, rtol, least)
  vectors.assert_near(
    stats['bn']['mean'], case['buf_conn_1.running_mean'], rtol
  )
  vectors.assert_near(stats['bn']['var'], case['buf_conn_1.running_var'], rtol)


def test_the_distances_gradient_is_that_of_finite_differences():
  rng = np.random.default_rng(0)
  s, t = rng.normal(size=(2, 2, 3, 3, 4)).astype(np.float32)
  margin = -np.abs(rng.normal(size=4)).astype(np.float32)
  test_util.check_grads(
    lambda x: losses.partial_l2(x, t, margin), (s,), 1, ['rev'], rtol=1e-2
  )


def test_a_margin_below_everything_leaves_the_half_squared_distance():
  rng = np.random.default_rng(0)
  s, t = rng.normal(size=(2, 2, 3, 3, 4)).astype(np.float32)
  got = losses.partial_l2(s, t, np.full(4, -1e9, np.float32))
  counts = ~((s <= t) & (t <= 0))
  want = ((s - t) ** 2 * counts).sum() / 2
  np.testing.assert_allclose(got, want, rtol=1e-5)


def test_a_student_below_a_negative_teacher_pays_and_learns_nothing():
  s, t = np.full((1, 1, 1, 2), -2.0), np.full((1, 1, 1, 2), -1.0)
  margin = np.full(2, -5.0)
  value, grad = jax.value_and_grad(losses.partial_l2)(s, t, margin)
  assert value == 0
  assert not np.any(grad)


def test_deep_stages_weigh_more():
  method = tiny.method('ofd')
  batch = tiny.batch(4)
  net = tiny.network()
  variables = tiny.variables(net)
  rng = np.random.default_rng(0)
  maps = {
    f'stage{i}_pre': rng.normal(size=(4, 2, 2, c)).astype(np.float32)
    for i, c in ((1, 4), (2, 8), (3, 16))
  }
  logits = rng.normal(size=(4, 10)).astype(np.float32)
  student = {k: rng.permutation(v) for k, v in maps.items()}
  feats = {
    'student': {**student, 'logits': logits},
    'teacher': {**maps, 'logits': logits, 'params': variables['params']},
  }
  made = method.init(jax.random.key(0), feats, batch)

  def term(stages):
    own = tiny.method('ofd', stages=stages)
    names = [f'connector{i}' for i in stages]
    kept = {
      collection: {name: made[collection][name] for name in names}
      for collection in ('params', 'batch_stats')
    }
    return own.apply(kept, feats, batch, mutable=['batch_stats'])[0]['ofd']

  alone = [float(term((i,))) for i in (1, 2, 3)]
  want = alone[0] / 4 + alone[1] / 2 + alone[2]
  np.testing.assert_allclose(term((1, 2, 3)), want, rtol=1e-5)


def test_the_margin_is_read_from_the_stages_last_block():
  for name, norm in (('resnet14', 'bn2'), ('resnet50', 'bn3')):
    shapes = jax.eval_shape(lambda n=name: _params(n))
    last = {'resnet14': 'stage2_block2', 'resnet50': 'stage2_block4'}[name]
    scale, bias = read_params.last_bn(shapes, 2)
    assert scale is shapes[last][norm]['scale']
    assert bias is shapes[last][norm]['bias']


def _params(name):
  from kd_jax import models

  image = np.zeros((1, 32, 32, 3), np.float32)
  return models.make(name, 3).init(jax.random.key(0), image, train=False)[
    'params'
  ]


def test_a_network_without_such_batch_norms_is_refused():
  with pytest.raises(errors.UsageError, match='no blocks of stage 1'):
    read_params.last_bn({'fc': {}}, 1)


def test_a_larger_teacher_map_is_averaged_to_the_students():
  params = tiny.variables(tiny.network())['params']
  rng = np.random.default_rng(0)
  small = rng.normal(size=(2, 2, 2, 4)).astype(np.float32)
  large = small.repeat(2, axis=1).repeat(2, axis=2)
  logits = np.zeros((2, 10), np.float32)
  student = {'stage1_pre': rng.permutation(small), 'logits': logits}
  values = []
  for theirs in (small, large):
    teacher = {'stage2_pre': theirs, 'logits': logits, 'params': params}
    method = tiny.method('ofd', stages=(1,), teacher_stages=(2,))
    # The connector's width and the margin are those of the teacher's stage.
    teacher['stage2_pre'] = np.concatenate([theirs, theirs], axis=-1)
    feats = {'student': student, 'teacher': teacher}
    made = method.init(jax.random.key(0), feats, tiny.batch(2))
    terms, _ = method.apply(made, feats, tiny.batch(2), mutable=['batch_stats'])
    values.append(terms['ofd'])
  np.testing.assert_allclose(*values, rtol=1e-6)
  assert values[0] > 0


def test_vectors_are_refused_with_both_shapes():
  feats = {
    'student': {'stage1_pre': np.zeros((1, 4, 4, 2))},
    'teacher': {'stage1_pre': np.zeros((1, 2))},
  }
  message = r'stage1_pre \(2,\).*stage1_pre \(4, 4, 2\) must be maps'
  with pytest.raises(errors.UsageError, match=message):
    tiny.method('ofd', stages=(1,)).init(
      jax.random.key(0), feats, tiny.batch(1)
    )


def test_stages_that_cannot_be_paired_are_refused():
  with pytest.raises(errors.UsageError, match=r'stages=\(1, 2\)'):
    tiny.method('ofd', stages=(1, 2), teacher_stages=(2,))


def dense_feats(names=('stage4', 'aspp')):
  rng = np.random.default_rng(0)
  params = {
    'backbone': {'stage4_block1': _norm('bn2', 3)},
    'aspp': _norm('bn_last', 3),
  }
  maps = {f'{name}_pre': rng.normal(size=(2, 2, 2, 3)) for name in names}
  maps = {name: x.astype(np.float32) for name, x in maps.items()}
  student = {name: x[::-1] for name, x in maps.items()}
  return {
    'student': {**student, 'logits': np.zeros((2, 10), np.float32)},
    'teacher': {
      **maps,
      'logits': np.zeros((2, 10), np.float32),
      'params': params,
    },
  }


def _norm(name, width):
  # Its margin is far below the maps, so that every distance counts.
  return {name: {'scale': np.ones(width), 'bias': np.full(width, -9.0)}}


def test_each_distance_is_divided_by_its_divisor():
  feats, batch = dense_feats(), tiny.batch(2)
  stages = (4, 'aspp')
  made = tiny.method('ofd', stages=stages).init(jax.random.key(0), feats, batch)

  def term(**fields):
    method = tiny.method('ofd', stages=stages, **fields)
    return method.apply(made, feats, batch, mutable=['batch_stats'])[0]['ofd']

  first, second = (term(divisors=divisors) for divisors in ((1, 1e9), (1e9, 1)))
  assert first > 0
  assert second > 0
  for divisors, want in (
    ({}, first / 2 + second),
    ({'divisors': (8, 16)}, first / 8 + second / 16),
  ):
    np.testing.assert_allclose(term(**divisors), want, rtol=1e-5)


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'divisors': (1, 2)}, r'divisors=\(1, 2\): there are 3 stages; give a'),
    ({'divisors': (1, 0, 2)}, 'divisors=.* give a number above 0 each'),
    ({'stages': (1, 'asp')}, "a whole number, 1 to 10000, 'aspp' or 'dec"),
    ({'teacher_stages': ('head', 1, 2)}, "'aspp' or 'decoder' each"),
  ],
)
def test_stages_and_divisors_that_make_no_sense_are_refused(fields, message):
  with pytest.raises(errors.UsageError, match=message):
    tiny.method('ofd', **fields)


def test_a_classifier_as_the_teacher_has_no_margin_of_a_head():
  with pytest.raises(errors.UsageError, match='has no aspp whose BatchNorm'):
    read_params.last_bn({'fc': {}}, 'aspp')
