"""The table of methods over seeds."""

import json

from ml_collections import ConfigDict
import numpy as np
import pytest

from kd_jax import config as config_lib
from kd_jax import errors
from kd_jax.cli import compare


def run(method, top1, alone=None, seeds=(0, 1, 2), teacher=97.5, **changes):
  """What a run over seeds wrote; `changes` are of 'a.b' in its config."""
  config = config_lib.digits()
  config.method = method
  config.student.args.widths = (4, 8)
  for path, value in changes.items():
    config.update_from_flattened_dict({path: value})
  found = {
    'seeds': list(seeds),
    'top1': list(top1),
    'teacher_top1': [teacher] * len(seeds),
    'config': config_lib.plain(config),
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


@pytest.mark.parametrize(
  ('changes', 'cell'),
  [
    ({'student.args.widths': (8, 8)}, 'other network'),
    ({'epochs': 30}, 'other epochs'),
    ({'batch_size': 64}, 'other batch size'),
    ({'epochs': 30, 'batch_size': 64}, 'other epochs, batch size'),
    ({'teacher.name': 'resnet8'}, 'other teacher'),
    ({'teacher.args.widths': (8, 8, 16, 32)}, 'other teacher'),
    ({'teacher.recipe.epochs': 30}, 'other teacher'),
    ({'teacher.path': 'runs/teacher'}, 'other teacher'),
    ({'teacher': 96.0}, 'other teacher top-1'),
  ],
)
def test_another_recipe_is_not_compared_with_the_reference(changes, cell):
  other = run('fsp', (93.0, 94.0, 95.0), ALONE, **changes)
  assert cells(compare.table([KD, other], 'kd'), 'fsp')[-1] == cell


def test_what_is_the_methods_own_does_not_hinder_a_comparison():
  free = run('tf_fd', FPD['top1'], ALONE, **{'teacher.name': ''})
  del free['teacher_top1']
  first = ConfigDict({'initialise': {'epochs': 10}})
  own = {'teacher.args.batch_norm': 'batch', 'phases': first}
  for other in (free, run('ofd', FPD['top1'], ALONE, **own)):
    method = other['config']['method']
    assert cells(compare.table([KD, other], 'kd'), method)[-1].startswith('+2')


def test_a_file_without_its_teachers_accuracy_is_compared():
  older = {k: v for k, v in FPD.items() if k != 'teacher_top1'}
  assert cells(compare.table([KD, older], 'kd'), 'fpd')[-1] == '+2.00 ± 0.00*'


def test_a_run_without_its_student_alone_says_so():
  assert (
    cells(compare.table([run('kd', ALONE)], 'kd'), 'kd')[4] == 'not trained'
  )


@pytest.mark.parametrize(
  ('other', 'message'),
  [
    (run('fpd', (1, 2), seeds=(0, 1)), 'differ in seeds'),
    (run('fpd', (1, 2, 3), **{'data.name': 'cifar100'}), 'differ in data'),
    (run('fpd', (1, 2, 3), **{'data.train_size': 200}), '200 training images'),
    (run('fpd', (1, 2, 3), **{'data.val_fraction': 0.1}), '0.1 of them held'),
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
