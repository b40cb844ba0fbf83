"""How runs are grouped, and how groups are named."""

import pytest

from kd_jax.study import finished, groups
from tests.study import made


def labels(tmp_path, *cases):
  """Returns the labels of groups of one run; a case is (method, changes)."""
  for i, (method, changes) in enumerate(cases):
    made.run(tmp_path / f'{i}', 90.0 + i, method, **changes)
  found, left_out = groups.group(finished.find([str(tmp_path)]).runs)
  assert not left_out
  return [one.label for one in found]


@pytest.mark.parametrize(
  ('cases', 'expected'),
  [
    (
      [
        ('kd', {'method_args.temperature': 2.0}),
        ('kd', {'weights.kd': 0.5}),
        ('fpd', {}),
      ],
      [
        'kd method_args.temperature=2.0 weights.kd=0.9',
        'kd method_args.temperature=4.0 weights.kd=0.5',
        'fpd',
      ],
    ),
    # A key that is not the method's own is in the labels of all methods.
    (
      [('kd', {}), ('kd', {'epochs': 9}), ('fpd', {'epochs': 9})],
      ['kd epochs=60', 'kd epochs=9', 'fpd epochs=9'],
    ),
    ([('kd', {'epochs': 9}), ('fpd', {})], ['kd', 'fpd']),
    (
      [('kd', {}), ('kd', {'student.args.widths': (8,)})],
      ['kd student.args.widths=(4,8)', 'kd student.args.widths=(8,)'],
    ),
    # What does not change the result, and the seed, make no group.
    (
      [('kd', {}), ('kd', {'seed': 1, 'data.workers': 7, 'log_every': 3})],
      ['kd'],
    ),
  ],
)
def test_a_label_has_what_differs(tmp_path, cases, expected):
  assert labels(tmp_path, *cases) == expected


def test_of_many_keys_a_label_has_enough_and_says_so(tmp_path):
  many = {
    'epochs': 9, 'batch_size': 8, 'eval_every': 2.0, 'weights.kd': 0.1,
    'optimizer.momentum': 0.8,
  }  # fmt: skip
  found = labels(tmp_path, ('kd', {}), ('kd', many))
  assert found == ['kd weights.kd=0.9 ...', 'kd weights.kd=0.1 ...']


def test_of_runs_with_the_same_configuration_and_seed_one_counts(tmp_path):
  made.run(tmp_path / 'a', 90.0)
  made.run(tmp_path / 'b', 91.0)
  made.seeds_file(tmp_path / 'seeds-0.json', {0: 90.0})  # that of a
  (one,), (line,) = groups.group(finished.find([str(tmp_path)]).runs)
  assert one.top1 == {0: 90.0}
  assert 'b: configuration and seed 0 are those of' in line
  assert '(91.00 and 90.00)' in line
