"""Any teacher meets any student, or is refused before data is read."""

import optax
import pytest

from kd_jax import data, errors
from kd_jax.distill import build, inspect
from kd_jax.methods import base, registry
from tests import tiny
from tests.cli import train_test

WITH_TAPS = [
  name
  for name in registry.names()
  if issubclass(registry.method_class(name), base.WithTaps)
]


def deeper(tap):
  """The tap of the next stage: 'stage2_pre' for 'stage1_pre'."""
  if not tap.startswith('stage'):
    return {'stem': 'stage1'}.get(tap, tap)
  return f'stage{int(tap[5]) + 1}{tap[6:]}'


@pytest.mark.parametrize('name', WITH_TAPS)
def test_a_teacher_with_more_stages_other_channels_and_sizes_is_met(name):
  plain = tiny.method(name)
  taps = plain.taps
  taken = tuple(deeper(tap) for tap in plain.teacher_taps or taps)
  # FSP needs the same channels, its one limit.
  widths = (8, 4, 4, 8, 16) if name == 'fsp' else (6, 6, 6, 12, 24)
  teacher = tiny.network('resnet18', widths, stem='imagenet')
  if name == 'fsp':
    taps, taken = taps[1:], taken[1:]
  small = {'width': 16} if name == 'fpd' else {}
  method = tiny.method(name, taps=taps, teacher_taps=taken, **small)
  exp = tiny.experiment(method, tx=optax.identity(), teacher=teacher)
  feats = inspect.trace(exp, 64, 8).features
  for theirs, ours in method.pairs():
    t, s = feats['teacher'][theirs].shape, feats['student'][ours].shape
    if theirs == ours == 'logits':
      continue
    assert len(t) == 2 or t[1:3] != s[1:3], (theirs, ours)
    assert (t[-1] == s[-1]) is (name == 'fsp'), (theirs, ours)


def test_a_pair_that_cannot_meet_is_refused_before_data_is_read(monkeypatch):
  def opened(*_, **__):
    raise AssertionError('the data set was opened')

  monkeypatch.setattr(data, 'open_source', opened)
  config = train_test.configuration('fsp').get_config('digits')
  config.data.name, config.data.train_size = 'cifar100', 0
  config.teacher.args.widths = (16, 16, 32, 48)
  message = r"teacher's stage3 \(8, 8, 48\) .* student's stage3 \(8, 8, 64\)"
  with pytest.raises(errors.UsageError, match=message):
    build.build(config)


@pytest.mark.parametrize('name', ['simkd', 'pics', 'pefd', 'ft'])
def test_a_method_of_one_pair_says_so_of_two(name):
  with pytest.raises(
    errors.ArgumentError,
    match=r"^taps=\('stage2', 'stage3'\): give a single tap, such as",
  ):
    registry.make(name, taps=('stage2', 'stage3'))
