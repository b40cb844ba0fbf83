"""The table of published numbers."""

import pytest

from kd_jax import config as config_lib
from kd_jax import errors
from kd_jax.cli import app, listing
from kd_jax.reproduce import cells

# Recipes of our own choice, which no paper has, and those of DML, whose numbers
# nobody has checked.
OWN = (
  'digits',
  'digits_kd',
  'digits_two_teachers',
  'digits_soft',
  'scenes_segmentation',
  'cifar100_r20_r8',
  'cifar100_r8',
  'cifar100_r32_r32',
  'cifar100_r32_wrn_28_10',
  'folder_r34_r18',
  'folder_regnety_400mf_tiny',
  'scenes_detection',
  'imagenet_regnety_16gf_tiny',  # lacks a part of the paper's augmentation
)
CELLS = cells.load()


@pytest.mark.parametrize('cell', CELLS, ids=lambda cell: cell.recipe)
def test_a_cell_says_what_its_recipe_trains(cell):
  config = config_lib.load(cell.recipe)
  assert cell.data == config.data.name
  assert cell.teacher == config.teacher.name
  assert cell.student == config.student.name


def test_every_published_recipe_has_a_cell():
  recipes = {name for name, _ in listing.recipes()}
  published = {r for r in recipes if r.partition(':')[2] not in OWN}
  cells_of = {cell.recipe for cell in CELLS}
  assert published <= cells_of
  assert cells_of <= recipes


def test_the_student_alone_is_a_cell_of_the_same_recipe():
  known = {cell.recipe: cell for cell in CELLS}
  pairs = [(cell, known[cell.alone]) for cell in CELLS if cell.alone]
  assert pairs
  for cell, alone in pairs:
    config = config_lib.of_baseline(config_lib.load(cell.recipe))
    other = config_lib.load(alone.recipe)
    for key in ('method', 'student', 'data', 'optimizer', 'epochs', 'weights'):
      assert config[key] == other[key], f'{cell.recipe}: {key}'


GRID = """
group = []
[[grid]]
table = "t"
data = "cifar100"
certainty = "code"
pairs = [
  {recipe = "a_b", teacher = "a", student = "b"},
  {recipe = "c_d", teacher = "c", student = "d"},
]
[grid.papers]
kd = "KD"
at = "AT"
[grid.numbers]
kd = [1.5, 2.5]
at = ["-", 3.5]
"""


def test_a_grid_has_a_cell_for_each_number(tmp_path):
  path = tmp_path / 'cells.toml'
  path.write_text(GRID)
  found = cells.load(str(path))
  assert [(c.recipe, c.paper, c.teacher, c.published) for c in found] == [
    ('kd:a_b', 'KD', 'a', 1.5),
    ('kd:c_d', 'KD', 'c', 2.5),
    ('at:c_d', 'AT', 'c', 3.5),
  ]
  path.write_text(GRID.replace('[1.5, 2.5]', '[1.5]'))
  with pytest.raises(errors.UsageError, match='is no table of cells'):
    cells.load(str(path))


WRONG = {
  'certainty = "sure"': "unknown certainty of kd:digits 'sure'",
  'certainty = "none", published = 1.0': 'or the certainty "none"',
  'certainty = "code"': 'or the certainty "none"',
  'certainty = "none", protocol = "first"': "protocol of kd:digits 'first'",
  'certainty = "none", publish = 1.0': "did you mean 'published'",
  '': 'kd:digits lacks certainty',
  'certainty': 'is no table of cells',
}


@pytest.mark.parametrize('keys', WRONG)
def test_a_wrong_cell_is_named(tmp_path, keys):
  path = tmp_path / 'cells.toml'
  path.write_text(
    '[[group]]\npaper = ""\ntable = ""\ndata = ""\nteacher = ""\nstudent = ""\n'
    f'cells = [{{recipe = "kd:digits", {keys}}}]'.replace(', }', '}')
  )
  with pytest.raises(errors.UsageError, match='cells') as error:
    cells.load(str(path))
  assert WRONG[keys] in str(error.value)


def test_a_recipe_has_one_cell(tmp_path):
  path = tmp_path / 'cells.toml'
  row = '{recipe = "kd:digits"}'
  path.write_text(
    '[[group]]\npaper = ""\ntable = ""\ndata = ""\nteacher = ""\nstudent = ""\n'
    f'certainty = "none"\ncells = [{row}, {row}]'
  )
  with pytest.raises(errors.UsageError, match='kd-digits has two'):
    cells.load(str(path))


MISTAKES = {
  'run tf_fd:cifar100_r200': "did you mean 'tf_fd:cifar100_r20'",
  'run kd:digits --seeds 0,x': "'x' is no seed; give whole numbers",
  'run kd:digits --minutes 0': "'0': give minutes above 0",
  'run kd:digits ce:cifar100_r20 --data npz:x.npz': 'name cells of one',
  'list --cells missing.toml': "'missing.toml' is no table of cells",
  'add kd:digits missing': 'missing holds no finished run',
  'show': "invalid choice: 'show'",
}


@pytest.mark.parametrize('arguments', MISTAKES)
def test_a_mistake_is_one_line(arguments, capsys, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert app.main(['reproduce', *arguments.split()]) == 2
  said = capsys.readouterr().err
  assert said.count('\n') == 1
  assert MISTAKES[arguments] in said
