"""How checks are reported, and how runs are compared."""

import json
import pathlib
import time
import types

import numpy as np
import pytest

from tests.benchmark.gpu.scripts import script


@pytest.fixture
def lab(tmp_path):
  for name in ('results', 'work'):
    (tmp_path / name).mkdir()
  options = {
    'results': str(tmp_path / 'results'), 'work': str(tmp_path / 'work'),
    'until': time.monotonic() + 30.0,
  }  # fmt: skip
  return script('lab').Lab(options, 3)


def reported(lab):
  path = pathlib.Path(lab.options['results']) / 'check.json'
  return json.loads(path.read_text())


def test_a_check_that_fails_is_reported_beside_those_that_pass(lab):
  check = script('check')

  def passes(lab):
    """This one passes."""
    return 'all is well'

  def fails(lab):
    """This one fails."""
    lab.command('broken', ['-c', 'print("why"); raise SystemExit(4)'])

  assert [check.checked(lab, each) for each in (fails, passes)] == [False, True]
  found = reported(lab)
  assert [each['ok'] for each in found['checks']] == [False, True]
  assert found['checks'][0]['said'] == 'broken ended with 4 and not 0: why'
  assert 'FAILED This one fails (0 s)' in found['text']
  assert '(1 more had no time)' in found['text']


def test_a_check_without_time_says_so(lab):
  check = script('lab')
  lab._last = time.monotonic() + 2.0
  said = 'slow: no time is left; it said: begun'
  slow = 'import time; print("begun", flush=True); time.sleep(600)'
  with pytest.raises(check.Failed, match=said):
    lab.command('slow', ['-c', slow])


def test_checks_that_have_not_ended_are_counted_from_the_start(lab):
  assert reported(lab)['text'] == '\n(3 more had no time)'


def compared(lab, monkeypatch, one, other, **kwargs):
  """What the check says of two runs with these arrays."""
  check, arrays = script('lab'), {'one': one, 'other': other}
  monkeypatch.setattr(
    check.restore,
    'load',
    lambda path: types.SimpleNamespace(
      weights={k: np.float32(v) for k, v in arrays[path.name].items()}
    ),
  )
  return check.compared(lab, 'one', 'other', **kwargs)


def test_runs_are_compared_bit_for_bit(lab, monkeypatch):
  same = {'w': [1.0, -0.0], 'b': [np.nan]}
  said = compared(lab, monkeypatch, same, dict(same))
  assert said == '2 arrays are equal bit for bit'
  with pytest.raises(script('lab').Failed, match='1 of 2 arrays differ'):
    compared(lab, monkeypatch, same, {**same, 'w': [1.0, 0.0]})


def test_the_largest_difference_of_two_runs_is_said(lab, monkeypatch):
  one, other = {'w': [1.0, 2.0], 'b': [0.5]}, {'w': [1.0, 2.25], 'b': [0.625]}
  said = compared(lab, monkeypatch, one, other, most=0.25)
  assert said == '2 of 2 arrays differ, by up to 0.25 (w)'
  with pytest.raises(script('lab').Failed, match=r'up to 0\.25 .* 0\.2 is'):
    compared(lab, monkeypatch, one, other, most=0.2)


def test_numbers_that_are_not_finite_are_not_close_to_any(lab, monkeypatch):
  for bad in (np.nan, np.inf):
    with pytest.raises(script('lab').Failed, match=r'w holds .* not finite'):
      compared(lab, monkeypatch, {'w': [bad]}, {'w': [bad]}, most=1.0)
