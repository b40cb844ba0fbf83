"""The table of methods over seeds."""

import json

import numpy as np
import pytest

from kd_jax import compare, errors


def run(
  method, top1, alone=None, seeds=(0, 1, 2), widths=(4, 8), data='digits'
):
  found = {
    'seeds': list(seeds),
    'top1': list(top1),
    'config': {
      'method': method,
      'data': {'name': data, 'train_size': 300},
      'student': {'name': 'resnet8', 'args': {'widths': list(widths)}},
    },
  }
  return found | ({'alone_top1': list(alone)} if alone else {})


ALONE = (90.0, 91.0, 92.0)
KD = run('kd', (91.0, 91.5, 93.0), ALONE)
FPD = run('fpd', (93.0, 93.5, 95.0), ALONE)


def cells(text, method):
  (line,) = (x for x in text.splitlines() if x.startswith(f'| `{method}`'))
  return [cell.strip() for cell in line.strip('|').split('|')]


def test_differences_are_paired_by_seed():
  text = compare.table([KD, FPD], 'kd')
  _, student, mean, std, alone, other = cells(text, 'fpd')
  assert student == 'resnet8 (4-8)'
  assert float(mean) == pytest.approx(np.mean(FPD['top1']), abs=0.01)
  assert float(std) == pytest.approx(np.std(FPD['top1'], ddof=1), abs=0.01)
  assert other == '+2.00 ± 0.00*'  # the same on every seed
  paired = np.subtract(FPD['top1'], ALONE)
  assert alone.startswith(f'{paired.mean():+.2f}')
  assert cells(text, 'kd')[-1] == ''


def test_what_is_within_two_standard_errors_has_no_star():
  noise = run('tfd', (90.0, 93.0, 91.0), ALONE)
  text = compare.table([KD, noise], 'kd')
  assert '*' not in cells(text, 'tfd')[4]
  assert '*' not in cells(text, 'tfd')[5]


def test_another_student_is_not_compared_with_the_reference():
  wide = run('fsp', (93.0, 94.0, 95.0), ALONE, widths=(8, 8))
  assert cells(compare.table([KD, wide], 'kd'), 'fsp')[-1] == 'other network'


def test_a_run_without_its_student_alone_says_so():
  assert (
    cells(compare.table([run('kd', ALONE)], 'kd'), 'kd')[4] == 'not trained'
  )


@pytest.mark.parametrize(
  ('other', 'message'),
  [
    (run('fpd', (1, 2), seeds=(0, 1)), 'differ in seeds'),
    (run('fpd', (1, 2, 3), data='cifar100'), 'differ in data'),
  ],
)
def test_runs_that_cannot_be_paired_are_refused(other, message):
  with pytest.raises(errors.UsageError, match=message):
    compare.table([KD, other], 'kd')


def test_the_command_line_prints_the_table_or_one_line(tmp_path, capsys):
  paths = []
  for found in (KD, FPD):
    path = tmp_path / f'{found["config"]["method"]}.json'
    path.write_text(json.dumps(found))
    paths.append(str(path))
  assert compare.main(paths) == 0
  assert '| `fpd` | resnet8 (4-8) |' in capsys.readouterr().out
  assert compare.main([*paths, '--reference=ofd']) == 2
  assert "unknown --reference 'ofd'" in capsys.readouterr().err
  (tmp_path / 'kd.json').write_text('{}')
  assert compare.main(paths) == 2
  error = capsys.readouterr().err
  assert 'is not what kd_jax.main --seeds writes' in error
  assert error.count('\n') == 1
