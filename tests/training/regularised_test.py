"""Runs with mixed images and averaged parameters: killed, resumed, exported."""

import json
import types

import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import errors, tasks
from kd_jax.distill import step
from kd_jax.runtime import logging, run_dir
from kd_jax.training import accuracies, facts, report, restore
from tests.training import end_to_end_test as runs

MIXED = (
  '--config.data.mixup=0.2',
  '--config.data.cutmix=1.0',
  '--config.data.label_smoothing=0.1',
  '--config.ema=0.9',
)


@pytest.mark.drill
def test_mixed_and_averaged_a_killed_run_ends_bit_for_bit_the_same(tmp_path):
  one, other, streamed = (tmp_path / n for n in ('one', 'other', 'streamed'))
  for folder in (one, other, streamed):
    folder.mkdir()
  runs.finish(runs.begin(one, *MIXED))
  more = runs.signalled(other, 'SIGKILL', 'run/dispatch', 17)
  runs.finish(runs.begin(other, *MIXED, **more), code=-9)
  assert 'resuming at step' in runs.finish(runs.begin(other, *MIXED))
  on_host = '--config.data.device_mb=0', '--config.data.workers=1'
  runs.finish(runs.begin(streamed, *MIXED, *on_host))
  for folder in (other, streamed):
    runs.assert_same_run(one, folder)
    first, second = (runs.leaves(f / 'run/student_ema') for f in (one, folder))
    assert first[0] == second[0]
    for name, value in first[1].items():
      np.testing.assert_array_equal(value, second[1][name])
  plain, averaged = (restore.load(one / 'run', ema=e) for e in (False, True))
  assert plain.weights.keys() == averaged.weights.keys()
  assert any((plain.weights[k] != averaged.weights[k]).any() for k in plain[0])
  result = json.loads((one / 'run/result.json').read_text())
  assert averaged.facts['accuracy']['top1'] == result['ema']['top1']
  assert averaged.facts['result']['ema'] == 0.9


@pytest.mark.drill
def test_varied_images_do_not_depend_on_the_workers(tmp_path):
  varied = '--config.data.policy=randaugment', '--config.data.erasing=0.5'
  for number in (0, 2):
    folder = tmp_path / str(number)
    folder.mkdir()
    out = runs.finish(
      runs.begin(folder, *varied, f'--config.data.workers={number}')
    )
    assert 'are augmented by workers, and streamed' in out
  runs.assert_same_run(tmp_path / '0', tmp_path / '2')


def result_of(**more):
  return {
    'method': 'kd', 'network': 'resnet8', 'top1': 70.0, 'params': 10,
    'flops': 20.0, 'wall_s': 3.0, 'teacher': None, 'best_on_test': 71.0, **more,
  }  # fmt: skip


def test_the_table_has_a_row_for_the_average():
  averaged = {'decay': 0.99, 'top1': 72.5}
  text = report.closing('kd', result_of(ema=averaged), None)
  (row,) = [line for line in text.splitlines() if 'averaged' in line]
  assert row.split()[:5] == ['averaged', '(ema', '0.99)', 'resnet8', '72.50%']
  assert '71.00%' not in row
  assert 'averaged' not in report.closing('kd', result_of(), None)


def test_a_line_tells_what_the_average_reaches():
  record = {'test/top1': 70.0, 'test/ema/top1': 72.5}
  assert logging.accuracy_text([record], 'top1', 'top-1') == (
    'test top-1 70.00%, best 70.00%, averaged 72.50%'
  )


def test_a_run_without_an_average_has_none_to_load(tmp_path):
  folder = run_dir.Folder(tmp_path)
  with pytest.raises(errors.ArgumentError, match='has no averaged parameters'):
    facts._of_average(folder, result_of())
  found = facts._of_average(
    folder, result_of(ema={'decay': 0.9, 'top1': 72.5, 'top5': 99.0})
  )
  assert (found['top1'], found['top5']) == (72.5, 99.0)
  assert 'best_on_test' not in found


def test_the_average_is_evaluated_beside_the_deployed_network(monkeypatch):
  seen = []

  def evaluate(task, counts, test, size, params, model_state, frozen, beat):
    seen.append((params['student'], model_state['student']))
    return {'student': {'top1': len(seen)}, 'other': {'top1': 50}}

  monkeypatch.setattr(accuracies.evaluation, 'evaluate', evaluate)
  parts = types.SimpleNamespace(
    deployed=types.SimpleNamespace(name='student'),
    task=tasks.find('classification'),
  )
  state = step.TrainState(
    step=jnp.int32(3),
    params={'student': 'now'},
    model_state={'student': {'batch_stats': 'now'}},
    opt_state=None,
    average={'student': {'params': 'mean', 'batch_stats': 'mean'}},
  )
  given = parts, {'test': None}, {'test': None}, 8
  assert accuracies.measured(*given, state, {}, print) == {
    'test/top1': 1, 'test/other/top1': 50, 'test/ema/top1': 2,
  }  # fmt: skip
  assert seen == [
    ('now', {'batch_stats': 'now'}), ('mean', {'batch_stats': 'mean'}),
  ]  # fmt: skip
  seen.clear()
  assert 'test/ema/top1' not in accuracies.measured(
    *given, state.replace(average={}), {}, print
  )
