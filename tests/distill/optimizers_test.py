"""Optimizers of optax by name: updates, arguments, weight decay."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from kd_jax import config as config_lib
from kd_jax import errors, models, pytrees
from kd_jax.distill import optim, optimizers, rules
from kd_jax.models.pretrained import convert

OTHERS = sorted(optimizers.KINDS.keys() - optimizers.TORCH.keys())
DECAY = 0.1
# Arguments that no configuration gives: masks, dtypes, tables of numbers.
NOT_GIVEN = {
  'adam_learning_rate', 'consistent_rms', 'dtype_momentum', 'mask',
  'mu_dtype', 'muon_weight_dimension_numbers', 'ns_coeffs', 'preconditioning',
  'trust_ratio_mask', 'weight_decay_mask',
}  # fmt: skip


def rate(step):
  return 0.1 / (1 + step)


def tree(seed):
  rng = np.random.default_rng(seed)
  return {
    'conv': {'kernel': jnp.asarray(rng.normal(size=(2, 3)), jnp.float32)},
    'bn': {'scale': jnp.asarray(rng.normal(size=3), jnp.float32)},
  }


def steps(tx):
  """The updates of two steps."""
  params, made = tree(0), []
  state = tx.init(params)
  for seed in (1, 2):
    updates, state = tx.update(tree(seed), state, params)
    made.append(updates)
    params = optax.apply_updates(params, updates)
  return made


def same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def near(a, b):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), a, b)


def of_optax(name):
  """The optimizer, and how optax itself is given a weight decay."""
  coupled = optax.add_decayed_weights(DECAY)
  if name == 'muon':
    both = {'weight_decay': DECAY, 'adam_weight_decay': DECAY}
    return optax.contrib.muon(rate, **both)
  if name in ('adamaxw', 'adan', 'lamb', 'lars', 'lion', 'nadamw', 'novograd'):
    return getattr(optax, name)(rate, weight_decay=DECAY)
  if name == 'adafactor':
    return optax.adafactor(rate)
  return optax.chain(coupled, getattr(optax, name)(rate))


@pytest.mark.parametrize('name', OTHERS)
def test_an_optimizer_is_optaxs_with_its_weight_decay(name):
  made = steps(optim.transformation(name, rate, weight_decay=DECAY))
  want = steps(of_optax(name))
  if name != 'adafactor':  # whose own decay does not follow the rate
    same(made, want)
    return
  first = jax.tree.map(lambda u, p: u - rate(0) * DECAY * p, want[0], tree(0))
  near(made[0], first)


def test_arguments_reach_optax():
  for name, args in (
    ('adam', {'b1': 0.5}),
    ('adamw', {'b2': 0.5, 'eps': 1e-3}),
    ('adan', {'b3': 0.5}),
    ('rmsprop', {'momentum': 0.5, 'centered': True}),
    ('lars', {'trust_coefficient': 0.02}),
  ):
    made = steps(optim.transformation(name, rate, args=args))
    own = {'weight_decay': 0.0} if name == 'adamw' else {}
    want = getattr(optax, name)(rate, **args, **own)
    same(made, steps(want))
    assert not np.array_equal(
      made[1]['conv']['kernel'],
      steps(optim.transformation(name, rate))[1]['conv']['kernel'],
    )


@pytest.mark.parametrize('name', OTHERS)
def test_every_argument_of_optax_is_given_or_known_not_to_be(name):
  parameters = inspect.signature(optimizers._function(name)).parameters
  keys = {'learning_rate', 'weight_decay', 'weight_decay_rate'}
  kind = optimizers.KINDS[name]
  assert {*parameters} <= (
    {*optimizers.arguments(name)} | keys | {*kind.arguments} | NOT_GIVEN
  )


@pytest.mark.parametrize('name', optimizers.KINDS)
def test_every_default_is_allowed(name):
  optimizers.check(name, optimizers.arguments(name))


def configuration(**changes):
  made = config_lib.default()
  with made.ignore_type():
    made.optimizer.learning_rate = 0.1
  made.optimizer.update(changes)
  return made


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'name': 'adamm'}, "unknown optimizer 'adamm'; did you mean 'adam'"),
    ({'name': 'adam', 'args': {'beta1': 0.9}}, "argument of .*'beta1'"),
    ({'name': 'lion', 'args': {'b3': 0.9}}, "'b3'; did you mean 'b2' or 'b1'"),
    (
      {'name': 'adam', 'args': {'b1': 1.5}},
      r'\.args\.b1=1\.5: give 0',
    ),
    ({'name': 'adam', 'args': {'b1': 'x'}}, r"args\.b1='x': give"),
    ({'name': 'adam', 'args': {'eps': None}}, r'args\.eps=None: give'),
    ({'name': 'nadam', 'args': {'nesterov': 1}}, 'give True or False'),
    ({'name': 'sgd', 'args': {'momentum': 0.9}}, 'there are: none'),
    ({'name': 'adam', 'args': {'learning_rate': 1.0}}, "'learning_rate'"),
  ],
)
def test_bad_input_is_one_line(changes, message):
  with pytest.raises(errors.UsageError, match=message) as told:
    rules.optimizer(configuration(**changes), 1)
  assert '\n' not in str(told.value)


def test_a_rules_other_optimizer_does_not_take_the_common_arguments():
  made = configuration(name='adam', args={'b1': 0.5})
  made.optimizer.rules = (('^a/', {'name': 'lion', 'args': {'b2': 0.9}}),)
  rules.optimizer(made, 1)
  made.optimizer.rules = (('^a/', {'name': 'frozen'}),)
  _, trained, _ = rules.optimizer(made, 1)
  assert (trained('a/x'), trained('b/x')) == (False, True)


@pytest.mark.parametrize('name', ['sgd', 'adamw', 'lamb', 'lars'])
def test_without_decay_of_norms_only_kernels_decay_and_adapt(name):
  made = configuration(name=name, decay_norms=False, weight_decay=DECAY)
  half = {'learning_rate': {'kind': 'scaled', 'factor': 0.5}}
  made.optimizer.rules = (('^conv', half),)
  tx, trained, _ = rules.optimizer(made, 1)
  found = steps(tx)[0]
  with_decay = optim.transformation(name, lambda _: 0.05, weight_decay=DECAY)
  near(found['conv'], steps(with_decay)[0]['conv'])  # of a scaled rate
  plain = {
    'lamb': optax.adam(0.1, eps=1e-6),
    'lars': optax.sgd(0.1, 0.9),
    'sgd': optax.sgd(0.1, 0.9),
    'adamw': optax.adam(0.1),
  }[name]
  near(found['bn'], steps(plain)[0]['bn'])
  assert trained('conv/bias')


def test_an_expression_that_cannot_be_joined_is_one_line():
  made = configuration(decay_norms=False)
  made.optimizer.rules = (('(?i)CONV', {'weight_decay': 1.0}),)
  with pytest.raises(errors.UsageError, match=r'write \(\?i:a\)'):
    rules.optimizer(made, 1)


def check_norms(network):
  leaves = jax.tree_util.tree_leaves_with_path(
    convert.shapes(network)['params']
  )
  names = {pytrees.path_name(path): len(leaf.shape) for path, leaf in leaves}
  assert {n for n, sides in names.items() if sides < 2} == {
    n for n in names if n.endswith(('/bias', '/scale', '/layer_scale'))
  }


@pytest.mark.parametrize('name', ['resnet8', 'ssd300_vgg16'])
def test_what_has_one_dimension_is_a_bias_or_a_scale(name):
  check_norms(models.make(name, 10))


@pytest.mark.drill
@pytest.mark.parametrize('name', models.NETWORKS)
def test_what_has_one_dimension_is_a_bias_or_a_scale_everywhere(name):
  check_norms(models.make(name, 10))


def test_a_rule_gives_what_was_loaded_a_lower_rate():
  made = configuration(momentum=0.0, weight_decay=0.0)
  tenth = {'learning_rate': {'kind': 'scaled', 'factor': 0.1}}
  made.optimizer.rules = (('^student/(?!fc/)', tenth),)
  tx, trained, _ = rules.optimizer(made, 1)
  params = {
    group: {'conv1': {'kernel': jnp.ones(2)}, 'fc': {'bias': jnp.ones(2)}}
    for group in ('student', 'method')
  }
  updates, _ = tx.update(params, tx.init(params), params)
  rates = {
    pytrees.path_name(path): -float(x[0])
    for path, x in jax.tree_util.tree_leaves_with_path(updates)
  }
  assert rates == {
    'student/conv1/kernel': pytest.approx(0.01),
    'student/fc/bias': pytest.approx(0.1),
    'method/conv1/kernel': pytest.approx(0.1),
    'method/fc/bias': pytest.approx(0.1),
  }
  assert trained('student/conv1/kernel')


def test_a_cosine_after_a_warm_up_ends_at_its_floor():
  spec = {'kind': 'cosine', 'value': 2.0, 'floor': 0.5, 'warmup_epochs': 1}
  found = optim.schedule(spec, 10, 20)
  for step, value in ((0, 0.2), (9, 2.0), (100, 1.25), (200, 0.5), (300, 0.5)):
    np.testing.assert_allclose(found(step), value, rtol=0.01)
  scaled = optim.of_rule(
    {'learning_rate': spec},
    {'learning_rate': {'kind': 'scaled', 'factor': 0.1}},
  )
  rate = optim.schedule(scaled['learning_rate'], 10, 20)
  np.testing.assert_allclose(rate(300), 0.05, rtol=1e-6)
  with pytest.raises(errors.UsageError, match='floor'):
    optim.schedule({'kind': 'linear', 'value': 1, 'floor': 1}, 10, 20)


def test_old_runs_without_the_new_keys_are_the_same_runs():
  made = config_lib.default()
  values = config_lib.determining(config_lib.plain(made))
  assert not {'args', 'decay_norms'} & values['optimizer'].keys()
  for key in ('args', 'decay_norms'):
    del made.optimizer[key]
  assert config_lib.determining(config_lib.plain(made)) == values
  rules.optimizer(made, 1)
