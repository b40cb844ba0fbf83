import jax
from jax import test_util
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import errors, losses
from kd_jax.methods import reviewkd
from tests import tiny
from tests.methods import vectors

# The cases of the contract test: arguments that make the method small.
CONTRACT = {
  '': {
    'taps': ('stage2', 'pooled'),
    'teacher_taps': ('stage2_pre', 'pooled'),
    'max_width': 8,
  }
}

distance = jax.jit(losses.hierarchical_context)


def maps(seed, shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture
def case():
  return vectors.load('reviewkd')[0]


def hcl(students, teachers):
  """The distance of all levels."""
  pairs = zip(students, teachers, strict=True)
  return sum(distance(s, t) for s, t in pairs)


def test_the_distance_and_its_gradients_are_the_originals(case):
  levels = range(len([key for key in case if key.startswith('in_fs')]))
  students = [vectors.nhwc(case[f'in_fs{i}']) for i in levels]
  teachers = [vectors.nhwc(case[f'in_ft{i}']) for i in levels]
  value, grads = jax.jit(jax.value_and_grad(hcl))(students, teachers)
  vectors.assert_near(value, case['out_hcl'])
  wants = [vectors.nhwc(case[f'grad_hcl_fs{i}']) for i in levels]
  least = 1e-2 * max(np.abs(want).max() for want in wants)
  for got, want in zip(grads, wants, strict=True):
    vectors.assert_near(got, want, least=least)


# Parameters of `Fusion` and their names in the file.
NAMES = {
  ('conv1', 'kernel'): 'conv1.0.weight',
  ('bn1', 'scale'): 'conv1.1.weight',
  ('bn1', 'bias'): 'conv1.1.bias',
  ('conv2', 'kernel'): 'conv2.0.weight',
  ('bn2', 'scale'): 'conv2.1.weight',
  ('bn2', 'bias'): 'conv2.1.bias',
  ('attention', 'kernel'): 'att_conv.0.weight',
  ('attention', 'bias'): 'att_conv.0.bias',
}


def ours(array):
  """OIHW as HWIO; vectors as they are."""
  return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array


def test_the_fusion_and_its_gradients_are_the_originals(case):
  params = {}
  for (module, name), key in NAMES.items():
    params.setdefault(module, {})[name] = ours(case[f'par_abf_{key}'])
  stats = {
    f'bn{i}': {
      'mean': case[f'par_abf_conv{i}.1.running_mean'],
      'var': case[f'par_abf_conv{i}.1.running_var'],
    }
    for i in (1, 2)
  }
  x, deeper = vectors.nhwc(case['in_abf_x']), vectors.nhwc(case['in_abf_y'])
  out, passed = (
    vectors.nhwc(case['out_abf_out']),
    vectors.nhwc(case['out_abf_res']),
  )
  fusion = reviewkd.Fusion(passed.shape[-1], out.shape[-1])

  def loss(params, x, deeper):
    found, _ = fusion.apply(
      {'params': params, 'batch_stats': stats},
      x,
      deeper,
      *out.shape[1:3],
      mutable=['batch_stats'],
    )
    return sum(jnp.square(y).mean() for y in found), found

  compiled = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))
  (_, found), grads = compiled(params, x, deeper)
  rtol = 1e-4  # through batch norm
  vectors.assert_near(found[0], out, rtol)
  vectors.assert_near(found[1], passed, rtol)
  keys = [key for key in case if key.startswith('grad_abf')]
  least = 1e-2 * max(np.abs(case[key]).max() for key in keys)
  vectors.assert_near(grads[1], vectors.nhwc(case['grad_abf_x']), rtol, least)
  vectors.assert_near(grads[2], vectors.nhwc(case['grad_abf_y']), rtol, least)
  for (module, name), key in NAMES.items():
    want = ours(case[f'grad_abf_{key}'])
    vectors.assert_near(grads[0][module][name], want, rtol, least)


def test_a_map_of_one_pixel_is_compared_by_mse_alone():
  s, t = maps(0, (3, 1, 1, 5)), maps(1, (3, 1, 1, 5))
  got = distance(s, t)
  np.testing.assert_allclose(got, ((s - t) ** 2).mean(), rtol=1e-6)


def test_differences_that_average_out_count_only_as_they_are():
  # Of weights 1, 1/2, 1/4, 1/8 only the first meets a difference.
  sign = np.where(np.indices((8, 8)).sum(0) % 2, 1.0, -1.0)
  s = np.broadcast_to(sign[None, :, :, None], (2, 8, 8, 3))
  got = distance(s, np.zeros_like(s))
  np.testing.assert_allclose(got, 1 / 1.875, rtol=1e-6)


def test_equal_maps_cost_nothing_and_their_gradient_is_zero():
  x = maps(0, (2, 8, 8, 3))
  value, grad = jax.value_and_grad(distance)(x, x)
  assert value == 0
  assert not np.any(grad)


def test_the_distances_gradient_is_that_of_finite_differences():
  s, t = maps(0, (2, 6, 6, 3)), maps(1, (2, 6, 6, 3))
  test_util.check_grads(lambda x: distance(x, t), (s,), 1, ['rev'], rtol=1e-2)


@pytest.mark.parametrize('size', [(6, 6), (4, 4), (2, 2), (1, 3)])
def test_resizing_takes_the_pixel_below_the_scaled_index(size):
  x = maps(0, (2, 2, 3, 4))
  rows = np.floor(np.arange(size[0]) * 2 / size[0]).astype(int)
  cols = np.floor(np.arange(size[1]) * 3 / size[1]).astype(int)
  got = reviewkd.nearest(x, *size)
  np.testing.assert_array_equal(got, x[:, rows][:, :, cols])


SIZES = {'stage1': (8, 4), 'stage2': (4, 8), 'stage3': (2, 16)}


def features(seed, wider=1, prefix=''):
  """A network's features: two sizes and channels a stage."""
  found = {
    name + prefix: maps(seed + i, (4, side, side, wider * channels))
    for i, (name, (side, channels)) in enumerate(SIZES.items())
  }
  found['pooled'] = maps(seed + 9, (4, wider * 16))
  return {**found, 'logits': maps(seed + 10, (4, tiny.CLASSES))}


BATCH = {'label': np.zeros(4, np.int32)}


def initial(method, feats):
  return jax.jit(method.init)(jax.random.key(0), feats, BATCH)


def gradient(feats):
  """The gradient of the method's term in the student's features."""
  method = tiny.method('reviewkd')

  def term(student, variables):
    terms, _ = method.apply(
      variables, {**feats, 'student': student}, BATCH, mutable=['batch_stats']
    )
    return terms['reviewkd']

  return jax.jit(jax.grad(term))(feats['student'], initial(method, feats))


def test_channels_are_those_of_the_features():
  feats = {'student': features(0), 'teacher': features(50, 3, '_pre')}
  shapes = jax.eval_shape(lambda: initial(tiny.method('reviewkd'), feats))
  params = shapes['params']
  for i, channels in enumerate((4, 8, 16, 16)):  # all levels pass on 16
    assert params[f'fusion{i}']['conv1']['kernel'].shape == (1, 1, channels, 16)
    wanted = 3 * channels
    assert params[f'fusion{i}']['conv2']['kernel'].shape == (3, 3, 16, wanted)
    assert ('attention' in params[f'fusion{i}']) == (i < 3)
  narrow = tiny.method('reviewkd', max_width=5)
  shapes = jax.eval_shape(lambda: initial(narrow, feats))
  assert shapes['params']['fusion0']['bn1']['scale'].shape == (5,)


def test_deep_maps_reach_shallow_levels_and_not_the_reverse():
  feats = {'student': features(0), 'teacher': features(50, 2, '_pre')}
  levels = range(4)
  method = tiny.method('reviewkd')
  variables = initial(method, feats)

  @jax.jit
  def outputs(student):
    _, state = method.apply(
      variables,
      {**feats, 'student': student},
      BATCH,
      mutable=['batch_stats', 'intermediates'],
      capture_intermediates=lambda module, _: isinstance(
        module, reviewkd.Fusion
      ),
    )
    found = state['intermediates']
    return [found[f'fusion{i}']['__call__'][0][0] for i in levels]

  before = outputs(feats['student'])
  for level, name in enumerate([*SIZES, 'pooled']):
    student = feats['student']
    after = outputs({**student, name: student[name][::-1]})
    moved = [bool(np.any(a != b)) for a, b in zip(after, before, strict=True)]
    assert moved == [i <= level for i in levels], name


def test_other_sizes_of_the_teacher_meet_the_students_resized():
  feats = {'student': features(0), 'teacher': features(50, 2, '_pre')}
  teacher = feats['teacher']
  teacher['stage1_pre'] = maps(7, (4, 6, 6, 8))
  teacher['stage3_pre'] = maps(8, (4, 4, 4, 32))
  grad = gradient(feats)
  for name in (*SIZES, 'pooled'):
    assert np.any(grad[name]), name


def test_features_of_zeros_have_finite_gradients():
  zeros = jax.tree.map(np.zeros_like, features(0))
  feats = {'student': zeros, 'teacher': features(50, 1, '_pre')}
  grads = jax.tree.leaves(gradient(feats))
  assert all(np.isfinite(grad).all() for grad in grads)


def test_features_that_are_no_maps_and_no_vectors_are_refused():
  feats = {'student': features(0), 'teacher': features(50, 1, '_pre')}
  feats['student']['stage2'] = np.zeros((4, 16, 8), np.float32)
  message = r'stage2_pre \(4, 4, 8\).*stage2 \(16, 8\) must be maps'
  with pytest.raises(errors.UsageError, match=message):
    initial(tiny.method('reviewkd'), feats)


def test_taps_that_cannot_be_paired_are_refused():
  with pytest.raises(errors.UsageError, match='as many values'):
    tiny.method('reviewkd', taps=('stage1',))
