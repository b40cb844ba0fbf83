import re

import jax
from jax import test_util
import numpy as np
import pytest

from kd_jax import errors, losses
from kd_jax.distill import optim
from kd_jax.methods import ffsd
from tests import tiny
from tests.methods import vectors

TERMS, _ = vectors.load('ffsd_terms')
MODULES, _ = vectors.load('ffsd_modules')
RTOL = 1e-4  # through batch norm


def value_and_grad(loss):
  x, y = (vectors.nhwc(TERMS[k]) for k in ('in_x', 'in_y'))
  return jax.value_and_grad(loss)(x, y)


@pytest.mark.parametrize(
  ('loss', 'value', 'grad'),
  [
    (losses.diversity, 'out_diversity_loss', 'grad_diversity_x'),
    (
      losses.attention_transfer,
      'out_attention_loss_maps',
      'grad_attention_x',
    ),
    (losses.unit_distance, 'out_attention_loss_features', 'grad_features_x'),
  ],
  ids=['diversity', 'attention', 'features'],
)
def test_distances_and_their_gradients_are_the_originals(loss, value, grad):
  got, found = value_and_grad(loss)
  vectors.assert_near(got, TERMS[value])
  vectors.assert_near(found, vectors.nhwc(TERMS[grad]))


def test_the_shifted_map_is_the_originals():
  want = vectors.nhwc(TERMS['out_diversity_target'])
  got = losses.shifted_map(vectors.nhwc(TERMS['in_y']))
  vectors.assert_near(got, want)


def test_the_ramp_is_the_originals():
  keys = [k for k in TERMS if k.startswith('out_lambda_fusion_epoch')]
  full = max(float(TERMS[k]) for k in keys)
  ramp = optim.schedule(
    {'kind': 'gaussian_ramp', 'value': full, 'epochs': 5}, 7, 20
  )
  checked = 0
  for key in keys:
    epoch = int(re.search(r'\d+$', key)[0])
    if epoch:  # epochs count from 1
      got = ramp(np.int32((epoch - 1) * 7 + 3))
      np.testing.assert_allclose(got, TERMS[key], rtol=1e-5)
      checked += 1
  assert checked > 5


def separable(prefix, kind='par'):
  """Parameters and statistics of a `Separable`, from torch's layout."""
  key = f'{kind}_{prefix}_'
  params, stats = {}, {}
  for conv, bn, i in (('conv1', 'bn1', 1), ('conv1_1', 'bn1_1', 2)):
    params[f'conv{i}'] = {
      'kernel': vectors.kernel(MODULES[f'{key}{conv}.weight'])
    }
    params[f'bn{i}'] = {
      'scale': MODULES[f'{key}{bn}.weight'],
      'bias': MODULES[f'{key}{bn}.bias'],
    }
    if kind != 'grad':
      stats[f'bn{i}'] = vectors.statistics(MODULES, f'{key}{bn}')
  return params, stats


def fusion(kind='par'):
  params, stats = separable('fusion', kind)
  key = f'{kind}_fusion_fc2'
  fc = {
    'kernel': MODULES[f'{key}.weight'].T,
    'bias': MODULES[f'{key}.bias'],
  }
  return {'fuse': params, 'fc': fc}, {'fuse': stats}


def check(module, found, x, value, grad_x, prefix, *args, **kwargs):
  """Output, gradients and buffers of a module against the stored ones."""
  params, stats = found('par')

  def loss(params, x):
    out, changed = module.apply(
      {'params': params, 'batch_stats': stats},
      x,
      *args,
      **kwargs,
      mutable=['batch_stats'],
    )
    return value(out), (out, changed['batch_stats'])

  (_, (out, moved)), (grads, grad) = jax.value_and_grad(
    loss, argnums=(0, 1), has_aux=True
  )(params, x)
  least = vectors.largest(MODULES, f'grad_{prefix}_')
  vectors.assert_tree_near(grads, found('grad')[0], RTOL, least)
  vectors.assert_near(grad, grad_x, RTOL, least)
  return out, moved


def test_the_fusion_is_the_originals():
  logits, fused = MODULES['out_fusion_logits'], MODULES['out_fusion_map']
  out, moved = check(
    ffsd.Fusion(logits.shape[-1]),
    fusion,
    vectors.nhwc(MODULES['in_fusion_x']),
    lambda out: sum((o**2).mean() for o in out),
    vectors.nhwc(MODULES['grad_fusion_x']),
    'fusion',
    fused.shape[1],
  )
  vectors.assert_near(out[0], vectors.nhwc(fused), RTOL)
  vectors.assert_near(out[1], logits, RTOL)
  vectors.assert_tree_near(moved, fusion('buf')[1], RTOL)


def test_the_trans_fusion_is_the_originals():
  want = MODULES['out_trans']
  out, _ = check(
    ffsd.Separable(want.shape[1]),
    lambda kind: separable('trans', kind),
    vectors.nhwc(MODULES['in_trans_x']),
    lambda out: (out**2).mean(),
    vectors.nhwc(MODULES['grad_trans_x']),
    'trans',
  )
  vectors.assert_near(out, vectors.nhwc(want), RTOL)


def decoder(kind='par'):
  params, stats = {}, {}
  blocks = sorted(
    {m[1] for k in MODULES if (m := re.match(r'par_sd_layer(\d+)', k))}
  )
  for i in blocks:
    key = f'{kind}_sd_layer{i}'
    (kernel,) = (MODULES[k] for k in MODULES if k.startswith(f'{key}.convtran'))
    params[f'conv{i}'] = {'kernel': kernel.transpose(2, 3, 0, 1)[::-1, ::-1]}
    params[f'bn{i}'] = {
      'scale': MODULES[f'{key}.norm.weight'],
      'bias': MODULES[f'{key}.norm.bias'],
    }
    if kind != 'grad':
      stats[f'bn{i}'] = vectors.statistics(MODULES, f'{key}.norm')
  return params, stats


def test_a_decoder_is_the_originals_in_both_modes():
  outs = [k for k in sorted(MODULES) if re.match(r'out_sd_train_layer\d+$', k)]
  widths = [MODULES[k].shape[1] for k in outs]
  x = vectors.nhwc(MODULES['in_sd_x'])
  module = ffsd.Decoder(widths)
  out, moved = check(
    module,
    decoder,
    x,
    lambda out: sum((o**2).mean() for o in out),
    vectors.nhwc(MODULES['grad_sd_x']),
    'sd',
    train=True,
  )
  for got, key in zip(out, outs, strict=True):
    vectors.assert_near(got, vectors.nhwc(MODULES[key]), RTOL)
  _, buffers = decoder('buf')
  vectors.assert_tree_near(moved, buffers, RTOL)
  evaluated = module.apply(
    {'params': decoder()[0], 'batch_stats': buffers}, x, train=False
  )
  for got, key in zip(evaluated, outs, strict=True):
    want = MODULES[key.replace('train', 'eval')]
    vectors.assert_near(got, vectors.nhwc(want), RTOL)


def maps(seed, sides=(8, 4, 2), n=4, width=4):
  rng = np.random.default_rng(seed)
  found = {
    f'stage{i}': np.maximum(
      rng.normal(size=(n, side, side, width * 2**i)), 0
    ).astype(np.float32)
    for i, side in enumerate(sides, 1)
  }
  found['logits'] = rng.normal(size=(n, tiny.CLASSES)).astype(np.float32)
  return found


def start(**args):
  method = tiny.method('ffsd', **args)
  feats = {name: maps(i) for i, name in enumerate(method.students)}
  batch = tiny.batch(4)
  return method, method.init(jax.random.key(0), feats, batch), feats, batch


@pytest.mark.parametrize('count', [2, 3])
def test_peers_teach_by_the_mean_of_their_divergences(count):
  method, variables, feats, batch = start(common_students=count)
  terms, _ = method.apply(variables, feats, batch, mutable=['batch_stats'])
  logits = [feats[f'student_{i}']['logits'] for i in range(count)]
  want = sum(
    float(losses.kl(a, b, 2.0))
    for i, a in enumerate(logits)
    for j, b in enumerate(logits)
    if i != j
  ) / (count - 1)
  assert float(terms['mutual']) == pytest.approx(want, rel=1e-5)
  assert set(terms) == set(method.terms)
  groups = set(variables['params'])
  assert {f'decoder_student_{i}' for i in range(1, count)} < groups
  assert 'decoder_student_0' not in groups


def test_every_term_is_put_together_as_specified():
  """Written from the specification: which map meets which, and by what."""
  method, variables, feats, batch = start(common_students=3)
  terms, _ = method.apply(variables, feats, batch, mutable=['batch_stats'])

  def module(made, name, *args, **kwargs):
    own = {c: v[name] for c, v in variables.items() if name in v}
    mutable = ['batch_stats'] if kwargs.get('train', True) else False
    found = made.apply(own, *args, **kwargs, mutable=mutable)
    return found[0] if mutable else found

  a = {n: [f[f'stage{i}'] for i in (1, 2, 3)] for n, f in feats.items()}
  z = {n: f['logits'] for n, f in feats.items()}
  peers = [f'student_{i}' for i in range(3)]
  joined = np.concatenate([a[n][2] for n in peers], axis=-1)
  width = a['leader'][2].shape[-1]
  fused, z_fused = module(ffsd.Fusion(tiny.CLASSES), 'fusion', joined, width)
  spread = module(
    ffsd.Separable(joined.shape[-1]), 'leader_trans', a['leader'][2]
  )
  widths = [a['leader'][i].shape[-1] for i in (1, 0)]

  def decoded(name, x, train):
    return module(ffsd.Decoder(widths), f'decoder_{name}', x, train=train)

  def sd(name, source):
    large, small = a[name][0], a[name][1]
    to_small, to_large = decoded(name, source, train=False)
    return losses.attention_transfer(
      large, to_large
    ) + losses.attention_transfer(small, to_small)

  def decoding(name):
    to_small, to_large = decoded(name, a[name][2], train=True)
    return sum(
      losses.unit_distance(out, want) + losses.attention_transfer(out, want)
      for out, want in ((to_small, a[name][1]), (to_large, a[name][0]))
    )

  def kd(student, teacher):
    return losses.kl(student, teacher, 2.0)

  label = batch['label']
  want = {
    'ce': sum(losses.cross_entropy(x, label) for x in z.values()),
    'mutual': sum(kd(z[i], z[j]) / 2 for i in peers for j in peers if i != j),
    'diversity': losses.diversity(a['student_1'][2], a['student_0'][2])
    + losses.diversity(a['student_2'][2], a['student_1'][2]),
    'common_sd': sd('student_1', losses.shifted_map(a['student_0'][2]))
    + sd('student_2', losses.shifted_map(a['student_1'][2])),
    'fusion_ce': losses.cross_entropy(z_fused, label),
    'fusion_kd': kd(z_fused, sum(z[n] for n in peers) / 3),
    'leader_kd': kd(z['leader'], z_fused),
    'fusion': losses.attention_transfer(a['leader'][2], fused),
    'trans_fusion': losses.attention_transfer(spread, joined),
    'leader_sd': sd('leader', fused),
    'decoder': sum(decoding(n) for n in ('leader', 'student_1', 'student_2')),
  }
  assert set(terms) == set(want)
  for name, value in want.items():
    np.testing.assert_allclose(terms[name], value, rtol=1e-5, err_msg=name)


def test_self_distillation_judges_before_the_decoders_statistics_move():
  method, variables, feats, batch = start()
  moving, changed = method.apply(
    variables, feats, batch, mutable=['batch_stats']
  )
  standing = method.apply(variables, feats, batch, mutable=[])[0]
  for term in ('leader_sd', 'common_sd'):
    assert float(moving[term]) == float(standing[term])
  after, _ = method.apply(
    {**variables, **changed}, feats, batch, mutable=['batch_stats']
  )
  assert float(after['leader_sd']) != float(moving['leader_sd'])


def test_the_leader_is_deployed():
  method, variables, feats, _ = start()
  found = method.apply(variables, feats, method='predict')
  assert list(found) == ['leader', 'student_0', 'student_1']
  np.testing.assert_array_equal(found['leader'], feats['leader']['logits'])


def test_equal_attention_is_pulled_apart():
  x = np.abs(np.random.default_rng(0).normal(size=(2, 4, 4, 3)))
  assert float(losses.diversity(x, x)) > 1e-3
  np.testing.assert_allclose(losses.attention_transfer(x, x), 0, atol=1e-7)


@pytest.mark.parametrize('loss', [losses.diversity, losses.unit_distance])
def test_gradients_are_those_of_finite_differences_and_finite(loss):
  rng = np.random.default_rng(0)
  a, b = rng.normal(size=(2, 2, 3, 3, 4)).astype(np.float32)
  test_util.check_grads(lambda x: loss(x, b), (a,), 1, ['rev'], rtol=1e-2)
  grad = jax.grad(loss)(np.zeros_like(a), np.zeros_like(b))
  assert np.isfinite(grad).all()


def test_what_does_not_fit_is_refused():
  with pytest.raises(errors.UsageError, match='common_students=1'):
    tiny.method('ffsd', common_students=1)
  method = tiny.method('ffsd')
  feats = {name: maps(0, sides=(8, 8, 4)) for name in method.students}
  message = r'stage1 \(8, 8, 8\) must be .* stage2 \(8, 8, 16\)'
  with pytest.raises(errors.UsageError, match=message):
    method.init(jax.random.key(0), feats, tiny.batch(4))
  with pytest.raises(errors.UsageError, match='2 positions'):
    losses.diversity(np.ones((1, 1, 2, 3)), np.ones((1, 1, 2, 3)))


def unlike(**changes):
  """The shapes of the method's variables; arguments of `maps` by student."""
  method = tiny.method('ffsd')
  feats = {name: maps(0, **changes.get(name, {})) for name in method.students}
  return jax.eval_shape(method.init, jax.random.key(0), feats, tiny.batch(4))


def test_a_leader_may_be_another_network_than_its_peers():
  params = unlike(leader={'width': 6})['params']
  widths = {
    name: params[name]['conv0']['kernel'].shape[-2:]
    for name in ('decoder_leader', 'decoder_student_1')
  }
  assert {*widths['decoder_leader']} == {24, 48}
  assert {*widths['decoder_student_1']} == {16, 32}


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'student_1': {'width': 6}}, r"'student_1': 48} channels, and the dec"),
    (
      {'leader': {'sides': (16, 8, 4)}},
      r'stage1 of student_0 \(8, 8, 8\) must have the height and width',
    ),
  ],
)
def test_students_that_cannot_be_fused_are_refused(changes, message):
  with pytest.raises(errors.ArgumentError, match=message):
    unlike(**changes)
