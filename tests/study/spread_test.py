"""Figures over seeds."""

import numpy as np
import pytest
from scipy import stats

from kd_jax.study import seeds
from kd_jax.study.spread import Spread, spread

VALUES = [90.0, 91.5, 92.0, 95.0]


def test_the_interval_is_students():
  found = spread(VALUES)
  low, high = stats.t.interval(
    0.95, len(VALUES) - 1, np.mean(VALUES), stats.sem(VALUES)
  )
  assert found.mean - found.half == pytest.approx(low)
  assert found.mean + found.half == pytest.approx(high)
  assert found.std == pytest.approx(np.std(VALUES, ddof=1))
  assert found.sem == pytest.approx(stats.sem(VALUES))


def test_one_value_has_a_mean_alone_and_is_no_claim():
  assert spread([5.0]) == Spread(5.0, None, None, None, 1)
  assert not spread([5.0]).is_claim


@pytest.mark.parametrize(('mean', 'claim'), [(2.01, True), (1.99, False)])
def test_a_claim_is_more_than_two_standard_errors_either_way(mean, claim):
  for sign in (1, -1):
    assert Spread(sign * mean, 2.0, 1.0, 3.0, 4).is_claim is claim


def test_seeds_are_summarised_with_and_without_the_student_alone():
  results = [
    {'seed': i, 'top1': top1, 'method': 'kd', 'teacher': {'top1': 97.0}}
    for i, top1 in enumerate(VALUES)
  ]
  alone = [{'top1': top1 - 1.0} for top1 in VALUES]
  text, figures = seeds.summary(results, alone)
  assert '+1.00 (standard error 0.00; more than two standard errors)' in text
  assert figures['difference']['mean'] == 1.0
  assert figures['teacher_top1'] == [97.0] * 4
  text, figures = seeds.summary(results, [*alone[:3], None])
  assert 'paired' not in text
  assert 'alone_top1' not in figures
