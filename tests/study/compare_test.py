"""The table of runs over seeds: what is paired, and what must not be."""

import json

from ml_collections import ConfigDict
import numpy as np
import pytest

from kd_jax import errors
from kd_jax.cli import app
from kd_jax.study import compare, finished, groups
from tests.study import made

KD = {0: 91.0, 1: 91.5, 2: 93.0}
FPD = {0: 93.0, 1: 93.5, 2: 95.0}


def table(*paths, reference=None):
  found = finished.find(paths)
  grouped, left_out = groups.group(found.runs)
  shown = compare.figures(grouped, reference, [*found.left_out, *left_out])
  assert json.loads(json.dumps(shown, allow_nan=False)) == shown
  return compare.markdown(shown)


def cells(text, label):
  (line,) = (x for x in text.splitlines() if x.startswith(f'| `{label}`'))
  return [cell.strip() for cell in line.strip('|').split('|')]


def rows(text):
  lines = [line for line in text.splitlines() if line.startswith('| `')]
  return [line.split('`')[1] for line in lines]


def test_differences_are_paired_by_seed(tmp_path):
  kd = made.seeds_file(tmp_path / 'kd.json', KD, alone=made.ALONE)
  fpd = made.several(tmp_path / 'fpd', FPD, 'fpd', made.ALONE)
  text = table(kd, fpd)
  _, student, mean, std, alone, other = cells(text, 'fpd')
  assert student == 'resnet8 (4-8)'
  assert float(mean) == pytest.approx(np.mean([*FPD.values()]), abs=0.01)
  assert float(std) == pytest.approx(np.std([*FPD.values()], ddof=1), abs=0.01)
  assert other == '+2.00 ± 0.00*'  # the same on every seed
  paired = np.subtract([*FPD.values()], [*made.ALONE.values()])
  assert alone.startswith(f'{paired.mean():+.2f}')
  assert cells(text, 'kd')[-1] == ''
  assert '3 seeds (0, 1, 2), digits, 300 training images' in text
  assert 'Half a 95% interval is 4.3 of them for 3 seeds' in text
  assert '1 x cpu, jax 0.10.2, commit abc' in text


def test_what_is_within_two_standard_errors_has_no_star(tmp_path):
  noise = {0: 90.0, 1: 93.0, 2: 91.0}
  text = table(
    made.several(tmp_path / 'kd', KD),
    made.several(tmp_path / 'tfd', noise, 'tfd', made.ALONE),
  )
  assert '±' in cells(text, 'tfd')[5]
  assert '*' not in cells(text, 'tfd')[4] + cells(text, 'tfd')[5]


def test_only_seeds_of_both_are_paired_and_their_number_is_said(tmp_path):
  text = table(
    made.several(tmp_path / 'kd', KD, alone={0: 90.0}),
    made.several(tmp_path / 'fpd', {1: 92.5, 2: 95.0, 3: 1.0}, 'fpd'),
    made.several(tmp_path / 'crd', {7: 92.5}, 'crd'),
  )
  assert cells(text, 'fpd')[2] == '1, 2, 3'
  assert cells(text, 'fpd')[-1] == '+1.50 ± 0.50* (n=2)'
  assert cells(text, 'kd')[5] == '+1.00 (n=1)'
  assert cells(text, 'crd')[-1] == 'no seed of both'


def test_one_seed_has_neither_deviation_nor_star(tmp_path):
  text = table(
    made.run(tmp_path / 'kd', 91.0), made.run(tmp_path / 'fpd', 93.0, 'fpd')
  )
  assert cells(text, 'fpd')[3:] == ['', 'not trained', '+2.00']
  assert 'no standard error' in text


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
def test_another_recipe_is_not_compared_with_the_reference(
  tmp_path, changes, cell
):
  teacher = changes.pop('teacher', 97.5)
  kd = made.several(tmp_path / 'kd', KD)
  other = made.several(
    tmp_path / 'other', FPD, 'fsp', teacher=teacher, **changes
  )
  assert cells(table(kd, other), 'fsp')[-1] == cell


@pytest.mark.parametrize(
  ('deployed', 'cell'), [('student_1', 'other network'), ('student', '+2.00')]
)
def test_the_deployed_student_decides_what_is_compared(
  tmp_path, deployed, cell
):
  kd = made.run(tmp_path / 'kd', 91.0)
  dml = made.run(tmp_path / 'dml', 93.0, 'dml')
  file = tmp_path / 'dml/result.json'
  result = {**json.loads(file.read_text()), 'kept': [deployed]}
  file.write_text(json.dumps(result))
  assert cells(table(kd, dml), 'dml')[-1] == cell


def test_other_data_are_named_and_not_compared(tmp_path):
  kd = made.several(tmp_path / 'kd', KD)
  for key, value, shown in (
    ('data.train_size', 200, '200'),
    ('data.val_fraction', 0.1, '0.1'),
    ('data.eval_protocol', 'paper', 'paper'),
    ('data.name', 'cifar100', 'cifar100'),
  ):
    folder = tmp_path / key
    text = table(kd, made.several(folder, FPD, 'fpd', **{key: value}))
    assert cells(text, f'fpd {key}={shown}')[-1] == 'other data'
    assert 'training images' not in text.split('Top-1')[1]


def test_what_is_the_methods_own_does_not_hinder_a_comparison(tmp_path):
  kd = made.several(tmp_path / 'kd', KD)
  free = made.several(tmp_path / 'tf_fd', FPD, 'tf_fd')
  first = ConfigDict({'initialise': {'epochs': 10}})
  own = {'teacher.args.batch_norm': 'batch', 'phases': first}
  ofd = made.seeds_file(tmp_path / 'ofd.json', FPD, 'ofd', **own)
  text = table(kd, free, ofd)
  assert cells(text, 'tf_fd')[-1] == cells(text, 'ofd')[-1] == '+2.00 ± 0.00*'


def test_a_file_without_its_teachers_accuracy_is_compared(tmp_path):
  kd = made.several(tmp_path / 'kd', KD)
  older = made.seeds_file(tmp_path / 'fpd.json', FPD, 'fpd', teacher=None)
  assert cells(table(kd, older), 'fpd')[-1] == '+2.00 ± 0.00*'


def test_another_learning_rate_is_said_below_the_table(tmp_path):
  rate = {'optimizer.learning_rate.value': 0.1}
  text = table(
    made.several(tmp_path / 'kd', KD),
    made.several(tmp_path / 'fpd', FPD, 'fpd', **rate),
  )
  assert cells(text, 'fpd')[-1] == '+2.00 ± 0.00*'
  assert (
    'also has optimizer.learning_rate.value=0.1 (the reference 0.05)' in text
  )


def test_a_group_of_ce_is_the_student_alone_of_the_same_recipe(tmp_path):
  alone = {
    'method': 'ce', 'teacher.name': '', 'teacher.args': ConfigDict(),
    'method_args': ConfigDict(), 'weights': ConfigDict({'ce': 1.0}),
    'teacher.recipe': ConfigDict({'seed': 0, 'epochs': 240, 'batch_size': 64}),
  }  # fmt: skip
  paths = [
    made.several(tmp_path / 'kd', KD),
    made.several(tmp_path / 'longer', KD, 'dkd', epochs=70),
    made.several(tmp_path / 'ce', {0: 90.5, 1: 91.0}, **alone, eval_every=2.0),
  ]
  text = table(*paths)
  assert cells(text, 'kd')[5] == '+0.50 ± 0.00* (n=2)'
  assert cells(text, 'ce')[5] == ''
  assert cells(text, 'ce')[6] == '-0.50 ± 0.00* (n=2)'
  assert cells(text, 'dkd')[5] == 'not trained'  # with that many epochs


def test_the_reference_is_a_method_or_a_label(tmp_path):
  warm = {'method_args.temperature': 2.0}
  paths = [
    made.several(tmp_path / 'fpd', FPD, 'fpd'),
    made.several(tmp_path / 'kd', KD),
    made.several(tmp_path / 'warm', FPD, **warm),
  ]
  names = ['fpd', 'kd method_args.temperature=4.0']
  names.append('kd method_args.temperature=2.0')
  assert rows(table(*paths)) == names
  for reference, label in (
    (None, names[1]), ('kd', names[1]), ('fpd', 'fpd'), (names[2], names[2])
  ):  # fmt: skip
    text = table(*paths, reference=reference)
    assert f'from {label} |' in text.splitlines()[0]
    assert cells(text, label)[-1] == ''
  with pytest.raises(errors.UsageError, match=r'did you mean .*temperature=2'):
    table(*paths, reference='kd method_args.temperature=2')
  assert 'from fpd |' in table(
    paths[0], made.several(tmp_path / 'c', KD, 'crd')
  )


def test_the_command_line_prints_the_table_or_one_line(tmp_path, capsys):
  kd = made.seeds_file(tmp_path / 'kd.json', KD)
  fpd = made.several(tmp_path / 'fpd', FPD, 'fpd')
  out = tmp_path / 'out.json'
  assert app.main(['compare', kd, fpd, f'--json={out}']) == 0
  assert '| `fpd` | resnet8 (4-8) |' in capsys.readouterr().out
  figures = json.loads(out.read_text())
  assert figures['reference'] == 'kd'
  row = figures['rows'][1]
  assert row['from_reference']['mean'] == 2.0
  assert row['config']['method'] == 'fpd'
  assert app.main(['compare', kd, fpd, '--reference=ofd']) == 2
  assert "unknown --reference 'ofd'" in capsys.readouterr().err
  assert app.main(['compare', kd, f'--json={tmp_path / "no" / "x"}']) == 2
  assert 'cannot write' in capsys.readouterr().err
  (tmp_path / 'kd.json').write_text('{}')
  assert app.main(['compare', kd]) == 2
  error = capsys.readouterr().err
  assert 'is not what kd_jax.main --seeds writes' in error
  assert error.count('\n') == 1
