"""The rooms of kd_jax: who may import whom, and how large a file may be."""

import ast
import pathlib
import re

import pytest

import kd_jax

ROOT = pathlib.Path(kd_jax.__file__).parent
# A room imports the rooms before it, and itself. See docs/design.md.
ROOMS = (
  'version', 'errors', 'domains', 'pytrees', 'features', 'boxes', 'losses',
  'config', 'runtime', 'models', 'data', 'tasks', 'methods', 'distill',
  'export', 'training', 'study', 'benchmark', 'reproduce', 'cli',
)  # fmt: skip
FACE = ('__init__', '__main__', 'main')  # import whatever they offer
MOST_LINES = 300  # of code: without blank lines, comments and docstrings
# The rooms and modules that may read a configuration; others get arguments.
READERS = (
  'config', 'distill.augmented', 'distill.build', 'distill.checks',
  'distill.networks', 'distill.rules', 'training.api', 'training.facts',
  'training.run', 'training.teacher', 'training.teacher_path',
  'training.restore', 'training.report', 'training.splits', 'training.start',
  'study.trained', 'study.sweep',
  'benchmark.case', 'benchmark.pairing', 'benchmark.planned',
  'reproduce.runner', 'cli.configured', 'cli.train', 'cli.sweep',
)  # fmt: skip
# The rooms and modules whose texts name arguments, not keys.
NAMING_ARGUMENTS = (
  'losses', 'methods', 'models', 'data', 'runtime.sharding', 'runtime.watchdog',
)  # fmt: skip
# A script for a process of its own, which no module imports.
SCRIPT = 'export.tensorflow_script'
# What methods share with one another.
SHARED = ('base', 'adapters', 'projectors', 'registry')


def name_of(path):
  """The dotted name of a file within kd_jax, '' for its __init__."""
  parts = path.relative_to(ROOT).with_suffix('').parts
  return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


FILES = {
  name_of(path): path
  for path in sorted(ROOT.rglob('*.py'))
  if 'configs' not in path.parts
}
del FILES['']


def imported(path):
  """Yields the modules of kd_jax that a file imports, as 'methods.base'."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom) and node.module:
      package, _, inner = node.module.partition('.')
      if package != 'kd_jax':
        continue
      for alias in node.names:
        full = f'{inner}.{alias.name}'.strip('.')
        yield full if full in FILES or not inner else inner
    elif isinstance(node, ast.Import):
      assert not any('kd_jax' in alias.name for alias in node.names), path


@pytest.mark.parametrize('name', FILES)
def test_a_room_imports_the_rooms_before_it(name):
  room = name.split('.')[0]
  if room in FACE:
    return
  for other in imported(FILES[name]):
    above = other.split('.')[0]
    if above in ('__version__',):
      continue
    assert ROOMS.index(above) <= ROOMS.index(room), f'{name} imports {other}'


def test_there_are_no_other_rooms():
  there = {name.split('.')[0] for name in FILES}
  assert there == {*ROOMS, *FACE} - {'__init__'}


def test_no_modules_import_each_other():
  """No circle: modules can be read one after the other."""
  needs = {
    name: {other for other in imported(path) if other in FILES} - {name}
    for name, path in FILES.items()
    if not path.name.startswith('__init__')
  }
  done = {name for name, path in FILES.items() if name not in needs}
  while needs:
    ready = {name for name, others in needs.items() if others <= done}
    assert ready, f'these import each other: {sorted(needs)}'
    done |= ready
    needs = {name: needs[name] for name in needs.keys() - ready}


def test_a_method_imports_no_other_method():
  for name in FILES:
    room, _, module = name.partition('.')
    if room != 'methods' or not module or module in SHARED:
      continue
    others = {m for m in imported(FILES[name]) if m.startswith('methods')}
    assert others <= {f'methods.{shared}' for shared in SHARED[:3]}, name


@pytest.mark.parametrize('name', FILES)
def test_few_rooms_read_a_configuration(name):
  if any(f'{name}.'.startswith(f'{reader}.') for reader in READERS):
    return
  tree = ast.parse(FILES[name].read_text())
  assert not [
    node
    for node in ast.walk(tree)
    if (isinstance(node, ast.Name) and node.id == 'ConfigDict')
    or (isinstance(node, ast.ImportFrom) and node.module == 'ml_collections')
  ], f'{name} reads a configuration: give it arguments'


@pytest.mark.parametrize('name', FILES)
def test_a_text_for_users_of_the_library_names_no_key(name):
  if not any(f'{name}.'.startswith(f'{room}.') for room in NAMING_ARGUMENTS):
    return
  for node in ast.walk(ast.parse(FILES[name].read_text())):
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
      assert not re.search(r'\bconfig\.[a-z]', node.value), node.value


def code_lines(path):
  """How many lines hold code."""
  text = path.read_text()
  prose = set()
  for node in ast.walk(ast.parse(text)):
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
      first = node.body[0] if node.body else None
      value = getattr(first, 'value', None)
      if isinstance(value, ast.Constant) and isinstance(value.value, str):
        prose |= {*range(first.lineno, first.end_lineno + 1)}
  return sum(
    number not in prose and not line.strip().startswith('#')
    for number, line in enumerate(text.splitlines(), 1)
    if line.strip()
  )


@pytest.mark.parametrize('name', FILES)
def test_a_file_is_short(name):
  assert code_lines(FILES[name]) <= MOST_LINES


def test_no_module_imports_tensorflow_or_pytorch():
  modules = {name: path for name, path in FILES.items() if name != SCRIPT}
  for path in modules.values():
    assert SCRIPT not in imported(path)
    for node in ast.walk(ast.parse(path.read_text())):
      names = []
      if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
      elif isinstance(node, ast.ImportFrom):
        names = [node.module or '']
      for module in names:
        assert module.split('.')[0] not in ('tensorflow', 'torch'), path
