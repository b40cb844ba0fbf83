"""Several teachers of a run: each with its own origin, files and figures."""

import json

import jax
import numpy as np
import pytest

from kd_jax import config as config_lib
from kd_jax import errors
from kd_jax.data import resident
from kd_jax.data.sets import digits
from kd_jax.distill import build
from kd_jax.runtime import run_dir, stored
from kd_jax.study import compare, finished, seeds
from kd_jax.training import facts as facts_lib
from kd_jax.training import report
from kd_jax.training import run as run_lib
from kd_jax.training import teacher as teacher_lib
from tests.training import teacher_test


def config(tmp_path):
  """KD from two files of weights, one with images of its own."""
  made = teacher_test.config(tmp_path / 'b.safetensors')
  for name in ('a', 'b'):
    want = teacher_test.saved(tmp_path / f'{name}.safetensors', made)
  fields = {
    **config_lib.network('resnet8', widths=(4, 4, 8, 16)),
    'expected_top1': 0.0,
  }
  made.teachers = config_lib.ConfigDict(
    {
      'a': {**fields, 'path': str(tmp_path / 'a.safetensors')},
      'b': {
        **fields, 'path': made.teacher.path, 'mean': (0.5,) * 3,
        'std': (0.25,) * 3, 'image_size': 16,
      },
    }
  )  # fmt: skip
  made.teacher = config_lib.default().teacher
  with made.unlocked():
    made.method_args.teachers = ('a', 'b')
  return made, want


def test_each_teacher_is_read_measured_and_kept_by_its_name(tmp_path):
  made, want = config(tmp_path)
  parts, folder = build.build(made), run_dir.Folder(tmp_path / 'run')
  assert set(parts.exp.inputs) == set(parts.exp.sizes) == {'b'}
  test = resident.Resident(digits.read('test'), digits.INFO, parts.mesh)
  lines = []
  given = (made, parts, folder, {'test': test}.get, None, lines.append)
  teacher_lib.check(made, parts, folder)
  frozen, facts = teacher_lib.obtain(*given)
  jax.tree.map(np.testing.assert_array_equal, frozen['b'], dict(want))
  # The same weights see other images.
  assert facts['a']['digest'] == facts['b']['digest']
  assert facts['a']['loss'] != facts['b']['loss']
  assert facts['b']['from'] == made.teachers.b.path
  said = '\n'.join(lines)
  assert 'teacher a, resnet8: top-1' in said
  assert 'teacher b, resnet8: top-1' in said
  names = {p.name for p in folder.path.iterdir()}
  assert names == {'teacher-a', 'teacher-a.json', 'teacher-b', 'teacher-b.json'}
  # It goes on with its own.
  again, same = teacher_lib.obtain(*given)
  assert same == facts
  jax.tree.map(np.testing.assert_array_equal, again, frozen)
  costs = report.costs(parts)
  assert costs['a']['params'] == costs['b']['params']
  assert costs['b']['flops'] == pytest.approx(4 * costs['a']['flops'], rel=0.01)
  lines = report.opening(made, parts, folder)
  assert 'b         resnet8: 5.21 k parameters' in lines
  assert 'images resized to 16x16' in lines
  assert 'b logits 10 -> student logits 10' in lines
  # What is wrong is named by the key that the user wrote.
  made.teachers.b.expected_top1 = 100.0
  with pytest.raises(
    errors.RunError, match=r'config\.teachers\.b\.expected_top1=100'
  ):
    teacher_lib.obtain(*given)
  teacher_test.saved(tmp_path / 'b.safetensors', _other(made))
  with pytest.raises(
    errors.UsageError, match=r'^config\.teachers\.b\.path=.*another teacher'
  ):
    teacher_lib.check(made, parts, folder)


def _other(made):
  """A configuration whose teacher, with other widths, has other weights."""
  other = made.copy_and_resolve_references()
  other.teacher.update(config_lib.network('resnet8', widths=(8, 8, 8, 16)))
  return other


def test_a_wrong_path_of_one_of_them_is_one_line(tmp_path):
  made, _ = config(tmp_path)
  made.teachers.b.path = str(tmp_path / 'nothing')
  with pytest.raises(
    errors.UsageError, match=r'^config\.teachers\.b\.path=.*not there'
  ) as raised:
    run_lib.train(made, run_dir.Folder(tmp_path / 'run'))
  assert '\n' not in str(raised.value)
  assert not (tmp_path / 'run').exists()


WRONG = [
  ({'image_size': 16}, r'^config\.teachers\.b\.image_size=16: digits has 8'),
  (
    {'recipe': {'batch_size': 10**6}},
    r'^config\.teachers\.b\.recipe\.batch_size=1000000 is more than the 20 ',
  ),
  (
    {'recipe': {'optimizer': {'name': 'adamm'}}},
    r"^config\.teachers\.b\.recipe: unknown optimizer 'adamm'",
  ),
]


@pytest.mark.parametrize(('fields', 'message'), WRONG)
def test_a_recipe_that_cannot_run_is_one_line_before_a_teacher_is_trained(
  tmp_path, monkeypatch, fields, message
):
  made, _ = config(tmp_path)
  made.cache_dir = str(tmp_path / 'cache')
  parts = build.build(made)
  of_b = {'name': 'resnet8', 'expected_top1': 0.0, **fields}
  made.teachers.b = config_lib.ConfigDict(of_b)
  monkeypatch.setattr(build, 'trace', lambda *_: None)  # it takes a second
  monkeypatch.setattr(build.memory, 'check', lambda *_: None)
  with pytest.raises(errors.UsageError, match=message) as raised:
    teacher_lib.check(made, parts, run_dir.Folder(tmp_path / 'run'))
  assert '\n' not in str(raised.value)


TEACHER = {'network': 'resnet20', 'top1': 70.0, 'params': 1, 'flops': 1.0}
WIDE = {**TEACHER, 'network': 'wrn_16_2', 'top1': 80.0}
RESULT = {
  'method': 'kd', 'network': 'resnet8', 'seed': 0, 'top1': 60.0, 'params': 1,
  'flops': 1.0, 'wall_s': 1.0, 'best_on_test': 61.0, 'kept': ['student'],
  'epochs': 1, 'teacher': None, 'teachers': {'a': TEACHER, 'b': WIDE},
}  # fmt: skip


def test_each_teacher_stands_in_the_table_and_in_the_figures_of_seeds():
  text = report.closing('kd', RESULT, None)
  rows = [line.split()[:4] for line in text.splitlines()]
  assert ['teacher', 'a', 'resnet20', '70.00%'] in rows
  assert ['teacher', 'b', 'wrn_16_2', '80.00%'] in rows
  _, figures = seeds.summary([RESULT, {**RESULT, 'seed': 1}], [None, None])
  assert figures['teacher-a_top1'] == [70.0, 70.0]
  only = {**RESULT, 'teacher': TEACHER}
  del only['teachers']
  assert facts_lib.teachers(only) == {'teacher': TEACHER}
  _, figures = seeds.summary([only], [None])
  assert figures['teacher_top1'] == [70.0]
  assert facts_lib.teachers({**only, 'teacher': None}) == {}


def run_of(tmp_path, made, result):
  folder = tmp_path / str(len(list(tmp_path.iterdir())))
  run_dir.Folder(folder).write('config.json', config_lib.plain(made))
  run_dir.Folder(folder).write('result.json', result)
  return str(folder)


def test_runs_are_compared_whose_deployed_students_agree(tmp_path):
  made = config_lib.digits()
  made.epochs, made.method = 1, 'dml'
  made.teacher = config_lib.default().teacher
  made.students.student_0 = config_lib.network('wrn_16_1')
  kept = {**RESULT, 'kept': ['student_0'], 'teachers': {}, 'method': 'dml'}
  del kept['teachers']
  alone = config_lib.of_baseline(made, 'student_0')
  others = made.copy_and_resolve_references()
  others.students.student_1 = config_lib.network('wrn_16_2')
  runs = finished.find(
    [
      run_of(tmp_path, made, kept),
      run_of(tmp_path, alone, {**kept, 'method': 'ce', 'kept': ['student']}),
      run_of(tmp_path, others, kept),
    ]
  ).runs
  groups, _ = compare.groups_lib.group(runs)
  rows = compare.figures(groups, groups[0].label)['rows']
  assert [row['network'] for row in rows] == ['wrn_16_1'] * 3
  assert rows[0]['from_alone']['mean'] == 0.0
  assert rows[2]['from_reference']['mean'] == 0.0


@pytest.mark.parametrize(
  ('name', 'value'),
  [
    ('config.json', {'teachers': {'a': 3}}),
    ('config.json', {'students': {'a': {'name': 3}}}),
    ('config.json', {'students': {'a': {'name': 'x', 'args': 3}}}),
    ('config.json', {'teachers': {'a': {'path': 'x'}}}),
    ('result.json', {'teachers': {'a': 3}}),
    ('result.json', {'teachers': []}),
  ],
)
def test_a_file_with_other_things_for_networks_is_refused(
  tmp_path, name, value
):
  folder = run_dir.Folder(tmp_path)
  folder.write(name, value)
  with pytest.raises(errors.UsageError, match=f'{name}: .* is .*, not'):
    folder.read(name)


def test_a_file_of_a_named_teacher_is_checked_as_one(tmp_path):
  folder = run_dir.Folder(tmp_path)
  folder.write('teacher-a.json', {'top1': 'high'})
  with pytest.raises(errors.UsageError, match='top1 is '):
    folder.read('teacher-a.json')
  folder.write('config.json', {})
  (tmp_path / 'teacher-a.json').write_text('{"top1": 7')
  folder.set_aside_cut()
  assert not (tmp_path / 'teacher-a.json').exists()
  assert json.loads((tmp_path / 'config.json').read_text()) == {}
  assert stored.read_if_there(folder.path / 'teacher-a.json') is None
