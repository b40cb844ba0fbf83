import jax
from jax import test_util
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from kd_jax import errors, losses
from kd_jax.methods import fpd
from tests import tiny

# The cases of the contract test: arguments that make the method small.
SMALL = {'width': 16, 'se_reduction': 2}
CONTRACT = {
  '': SMALL,
  'B': {**SMALL, 'version': 'B', 'guided': True},
  'unequal': SMALL,
}
EQUAL = ('', 'B')  # cases whose teacher has the student's channels

SHAPES = {'stem': (8, 6), 'stage1': (8, 6), 'stage2': (4, 8), 'stage3': (2, 10)}


def features(seed, shapes=SHAPES, n=4):
  rng = np.random.default_rng(seed)
  maps = {
    name: np.maximum(rng.normal(size=(n, hw, hw, c)), 0).astype(np.float32)
    for name, (hw, c) in shapes.items()
  }
  logits = rng.normal(size=(n, tiny.CLASSES)).astype(np.float32)
  return {**maps, 'logits': logits}


def pair(**kwargs):
  return {'student': features(0, **kwargs), 'teacher': features(1)}


def start(method, feats=None, seed=0):
  feats, batch = feats or pair(), tiny.batch(4)
  variables = dict(method.init(jax.random.key(seed), feats, batch))
  variables.pop('metrics', None)
  return variables, feats, batch


def apply(method, variables, feats, batch):
  return method.apply(
    variables, feats, batch, mutable=['metrics', 'batch_stats']
  )


def resize(x, size):
  """Bilinear enlargement as torch's (align_corners=False), one image row."""
  n, h, w, c = x.shape
  out = np.zeros((n, size, size, c))
  for i in range(size):
    for j in range(size):
      y = max((i + 0.5) * h / size - 0.5, 0)
      z = max((j + 0.5) * w / size - 0.5, 0)
      y0, z0 = int(y), int(z)
      y1, z1 = min(y0 + 1, h - 1), min(z0 + 1, w - 1)
      a, b = y - y0, z - z0
      top = x[:, y0, z0] * (1 - b) + x[:, y0, z1] * b
      bottom = x[:, y1, z0] * (1 - b) + x[:, y1, z1] * b
      out[:, i, j] = top * (1 - a) + bottom * a
  return out


def conv3x3(x, kernel, bias):
  n, h, w, _ = x.shape
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  out = np.zeros((n, h, w, kernel.shape[-1])) + bias
  for i in range(3):
    for j in range(3):
      out += padded[:, i : i + h, j : j + w] @ kernel[i, j]
  return out


def leaky_norm(x, params):
  """A 3x3 convolution, BatchNorm on the batch and LeakyReLU: 'CBL'."""
  x = conv3x3(x, params['conv']['kernel'], 0)
  x = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)
  x = x * params['bn']['scale'] + params['bn']['bias']
  return np.where(x > 0, x, 0.1 * x)


def pyramid(maps, version, params, laterals):
  """The smoothed and the gated levels of a network's four maps."""
  lateral = []
  for k, x in enumerate(maps):
    if version == 'A':
      own = params[laterals][f'lateral{k}']
      lateral.append(x @ own['kernel'][0, 0] + own['bias'])
    else:
      widened = leaky_norm(x, params[laterals][f'widen{k}'])
      lateral.append(leaky_norm(widened, params[laterals][f'lateral{k}']))
  levels = [lateral[3]]
  for k in (2, 1, 0):
    levels.insert(0, resize(levels[0], lateral[k].shape[1]) + lateral[k])
  if version == 'A':
    kernel, bias = params['smooth']['kernel'], params['smooth']['bias']
    smoothed = [conv3x3(x, kernel, bias) for x in levels]
  else:
    smoothed = [leaky_norm(x, params['smooth']) for x in levels]
  gated = []
  for g in smoothed:
    inner = np.maximum(g.mean((1, 2)) @ params['gate']['fc1']['kernel'], 0)
    gate = 1 / (1 + np.exp(-(inner @ params['gate']['fc2']['kernel'])))
    gated.append(g * gate[:, None, None])
  return smoothed, gated


def specified(params, feats, label, version, guided, weights):
  """The terms, in float64, written from the specification.

  Args:
    params: The pyramid's parameters.
    feats: The features of both networks.
    label: The labels.
    version: The version, 'A' or 'B'.
    guided: Whether only images count that the teacher gets right.
    weights: The softmax weights by name, which are constants; those that are
      missing are computed and kept in it.
  """

  def weighted(name, values):
    values = np.array(values)
    kept = weights.setdefault(name, special.softmax(values))
    return float(kept @ values)

  def mse(s, t):
    return ((s - t) ** 2).mean()

  z_s, z_t = (feats[n]['logits'] for n in ('student', 'teacher'))
  right = z_t.argmax(1) == label if guided else np.full(len(label), True)
  own = 'teacher_laterals' if 'teacher_laterals' in params else 'laterals'
  (g_s, e_s), (g_t, e_t) = (
    [
      [level * right[:, None, None, None] for level in part]
      for part in pyramid(
        [feats[name][tap] for tap in SHAPES], version, params, laterals
      )
    ]
    for name, laterals in (('student', 'laterals'), ('teacher', own))
  )
  if version == 'A':
    parts = [
      weighted(name, [mse(s, t) for s, t in zip(*levels, strict=True)])
      for name, levels in (('m', (g_s, g_t)), ('n', (e_s, e_t)))
    ]
  else:
    parts = [
      sum(mse(s.mean(-1), t.mean(-1)) for s, t in zip(g_s, g_t, strict=True)),
      sum(
        mse(s.mean((1, 2)), t.mean((1, 2)))
        for s, t in zip(e_s, e_t, strict=True)
      ),
    ]
  log_q, log_p = (special.log_softmax(z / 4, axis=1) for z in (z_s, z_t))
  divergences = 4**2 * (np.exp(log_p) * (log_p - log_q)).sum(1)
  log_s = special.log_softmax(z_s, axis=1)
  return {
    'ce': -log_s[np.arange(len(label)), label].mean(),
    'kd': divergences[right].mean(),
    'fpd': weighted('fpd', parts),
  }


@pytest.mark.parametrize(
  ('version', 'wider', 'guided'),
  [('A', 1, False), ('A', 2, True), ('B', 1, False), ('B', 2, True)],
)
def test_the_terms_and_gradients_are_put_together_as_specified(
  version, wider, guided
):
  shapes = {name: (hw, wider * c) for name, (hw, c) in SHAPES.items()}
  feats, batch = pair(shapes=shapes), tiny.batch(4)
  feats['teacher']['logits'][[0, 2], batch['label'][[0, 2]]] += 9
  feats['teacher']['logits'][[1, 3], batch['label'][[1, 3]]] -= 9
  method = fpd.Method(
    width=16, se_reduction=4, version=version, widened=(8, 8, 12, 8),
    guided=guided,
  )  # fmt: skip
  variables, *_ = start(method, feats)
  rng = np.random.default_rng(3)

  def near(tree, size):
    return jax.tree.map(
      lambda x: (x + size * rng.normal(size=x.shape)).astype(np.float32), tree
    )

  # BatchNorm's scale and bias are not 1 and 0.
  params = near(variables['params'], 0.1)

  def fpd_and_terms(params, student):
    own = {**feats, 'student': student}
    terms, _ = apply(method, {**variables, 'params': params}, own, batch)
    return terms['fpd'], terms

  given = params, feats['student']
  derive = jax.value_and_grad(fpd_and_terms, argnums=(0, 1), has_aux=True)
  (_, terms), slopes = jax.jit(derive)(*given)
  weights = {}

  def moved(step, part, along):
    """The specified terms, where a part of what is given has moved."""
    own = [double(x) for x in given]
    own[part] = jax.tree.map(lambda x, d: x + step * d, own[part], along)
    features = {**double(feats), 'student': own[1]}
    return specified(own[0], features, batch['label'], version, guided, weights)

  def double(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)

  for part in (0, 1):  # the pyramid's parameters, the student's features
    along = double(near(jax.tree.map(np.zeros_like, given[part]), 1.0))
    want = moved(0, part, along)
    assert set(terms) == set(want)
    for name, value in want.items():
      np.testing.assert_allclose(terms[name], value, rtol=1e-4, err_msg=name)
    # The softmax weights, which are constants, are those of the first call.
    ahead, behind = (moved(step, part, along)['fpd'] for step in (1e-7, -1e-7))
    slope = jax.tree.map(lambda g, d: float((g * d).sum()), slopes[part], along)
    found = sum(jax.tree.leaves(slope))
    np.testing.assert_allclose(found, (ahead - behind) / 2e-7, rtol=1e-3)


@pytest.mark.parametrize('version', ['A', 'B'])
def test_equal_features_cost_nothing(version):
  method = fpd.Method(width=16, version=version)
  feats = {'student': features(0), 'teacher': features(0)}
  terms, _ = apply(method, *start(method, feats))
  assert terms['fpd'] < 1e-10
  assert abs(terms['kd']) < 1e-6


@pytest.mark.parametrize('version', ['A', 'B'])
def test_gradient_is_that_of_finite_differences(version, monkeypatch):
  # With the softmax weights, which count as constants, held at fixed values.
  monkeypatch.setattr(
    losses,
    'softmax_weighted_sum',
    lambda values: sum((i + 1) * v for i, v in enumerate(values)),
  )
  method = fpd.Method(width=16, version=version)
  variables, feats, batch = start(method)

  def each(stage2):
    student = {**feats['student'], 'stage2': stage2}
    terms, _ = apply(method, variables, {**feats, 'student': student}, batch)
    return terms['fpd']

  # Differences of float32 over 2e-4 are off by up to 6e-3 in some directions.
  test_util.check_grads(
    each,
    (feats['student']['stage2'],),
    order=1,
    modes=['rev'],
    atol=8e-3,
    rtol=2e-2,
  )


def test_softmax_weights_are_constants():
  values = jnp.array([0.5, 2.0, 1.0])
  grad = jax.grad(lambda v: losses.softmax_weighted_sum(list(v)))(values)
  np.testing.assert_allclose(grad, jax.nn.softmax(values), rtol=1e-6)


def test_mse_gradient_is_that_of_finite_differences():
  a, b = features(0)['stage2'], features(1)['stage2']
  test_util.check_grads(
    lambda x: losses.mse(x, b), (a,), order=1, modes=['rev'], rtol=1e-2
  )


def test_equal_channels_share_the_laterals():
  variables, *_ = start(fpd.Method(width=16))
  assert set(variables['params']) == {'laterals', 'smooth', 'gate'}


def test_unequal_channels_have_laterals_of_their_own():
  wide = {name: (hw, 2 * c) for name, (hw, c) in SHAPES.items()}
  feats = pair(shapes=wide)
  variables, *_ = start(fpd.Method(width=16), feats)
  assert set(variables['params']) == {
    'laterals',
    'teacher_laterals',
    'smooth',
    'gate',
  }


def test_version_b_widens_narrow_maps_and_moves_statistics_twice():
  method = fpd.Method(width=16, version='B', widened=(12, 4, 4, 4))
  variables, feats, batch = start(method)
  laterals = variables['params']['laterals']
  widths = [laterals[f'widen{k}']['conv']['kernel'].shape[-1] for k in range(4)]
  assert widths == [12, 6, 8, 10]
  _, changed = apply(method, variables, feats, batch)
  # Batch statistics of teacher and student both enter: neither alone does.
  bn = changed['batch_stats']['laterals']['widen0']['bn']['mean']
  kernel = laterals['widen0']['conv']['kernel']

  def mean(maps):
    zeros = np.zeros(kernel.shape[-1])
    return conv3x3(maps['stem'], np.asarray(kernel), zeros).mean((0, 1, 2))

  once = 0.1 * mean(feats['teacher'])
  twice = 0.9 * once + 0.1 * mean(feats['student'])
  np.testing.assert_allclose(bn, twice, rtol=1e-4, atol=1e-6)


def test_guided_learns_only_from_images_the_teacher_gets_right():
  method = fpd.Method(width=16, guided=True)
  variables, feats, batch = start(method)
  right = np.array([True, False, True, False])
  logits = np.zeros((4, tiny.CLASSES), np.float32)
  wrong = (batch['label'] + 1) % tiny.CLASSES
  logits[np.arange(4), np.where(right, batch['label'], wrong)] = 5.0
  feats['teacher']['logits'] = logits

  def terms(student):
    found, _ = apply(method, variables, {**feats, 'student': student}, batch)
    return found['kd'] + found['fpd']

  grads = jax.grad(terms)(feats['student'])
  for name in (*SHAPES, 'logits'):
    moved = np.abs(grads[name]).reshape(4, -1).max(1) > 0
    np.testing.assert_array_equal(moved, right, err_msg=name)


def test_guided_with_no_right_image_costs_nothing():
  method = fpd.Method(width=16, guided=True)
  variables, feats, batch = start(method)
  batch['label'] = (feats['teacher']['logits'].argmax(-1) + 1).astype(np.int32)
  batch['label'] %= tiny.CLASSES
  terms, _ = apply(method, variables, feats, batch)
  assert terms['kd'] == 0
  assert terms['fpd'] == 0


def test_stopping_the_teachers_side_changes_the_pyramids_gradient_only():
  variables, feats, batch = start(fpd.Method(width=16))
  grads = []
  for stop in (False, True):
    method = fpd.Method(width=16, stop_grad_teacher_pyramid=stop)

    def loss(params, student, method=method):
      own = {**feats, 'student': student}
      return apply(method, {'params': params}, own, batch)[0]['fpd']

    grads.append(
      jax.grad(loss, argnums=(0, 1))(variables['params'], feats['student'])
    )
  (pyramid, student), (pyramid_stop, student_stop) = grads
  np.testing.assert_allclose(student['stage3'], student_stop['stage3'])
  assert (
    np.abs(pyramid['smooth']['kernel'] - pyramid_stop['smooth']['kernel']).max()
    > 1e-6
  )


def test_maps_of_different_sizes_meet_at_the_smaller_size():
  small = {**SHAPES, 'stage3': (4, 10)}
  variables, feats, batch = start(fpd.Method(width=16), pair(shapes=small))
  terms, _ = apply(fpd.Method(width=16), variables, feats, batch)
  pooled = losses.avg_pool_to(feats['student']['stage3'], 2, 2)
  feats['student'] = {**feats['student'], 'stage3': pooled}
  want, _ = apply(fpd.Method(width=16), variables, feats, batch)
  assert feats['teacher']['stage3'].shape[1:3] == (2, 2)
  np.testing.assert_allclose(terms['fpd'], want['fpd'], rtol=1e-6)


def test_vectors_are_refused_with_both_shapes():
  _, feats, batch = start(fpd.Method(width=16))
  feats['student'] = {**feats['student'], 'stage3': np.zeros((4, 10))}
  with pytest.raises(errors.UsageError, match=r'stage3.*\(2, 2.*\(10,\)'):
    fpd.Method(width=16).init(jax.random.key(0), feats, batch)


@pytest.mark.parametrize(
  'arguments',
  [{'version': 'C'}, {'width': 17}, {'version': 'B', 'taps': ('stem',)}],
)
def test_contradictory_arguments_are_refused(arguments):
  with pytest.raises(errors.UsageError):
    fpd.Method(**arguments)
