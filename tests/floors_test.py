"""Modules import from lower floors only."""

import ast
import pathlib

import pytest

import kd_jax

ROOT = pathlib.Path(kd_jax.__file__).parent
FLOORS = [
  {'__init__', 'errors', 'features', 'jaxprs', 'standalone'},
  {
    'losses',
    'models',
    'data',
    'optim',
    'sharding',
    'checkpoint',
    'command',
    'config',
    'downloads',
    'buckets',
    'locks',
    'peer',
    'processes',
    'watchdog',
  },
  {'methods', 'runs', 'exports'},
  {'step', 'metrics', 'onnx_file'},
  {'accuracy'},
  {'abstract', 'jitted'},
  {'build'},
  {'teachers', 'report', 'loop', 'trained', 'starved'},
  {'trainer', 'compare'},
  {'benchmark', 'evaluate', 'export', 'predict'},
  {'main'},
]


def floor(module):
  for number, names in enumerate(FLOORS):
    if module in names:
      return number
  raise AssertionError(f'{module} stands on no floor: add it to FLOORS')


def top(path):
  return path.relative_to(ROOT).parts[0].removesuffix('.py')


def imported(path):
  """The modules of kd_jax that a file imports, as 'methods.base'."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom) and node.module:
      if node.module == 'kd_jax':
        yield from (alias.name for alias in node.names)
      elif node.module.startswith('kd_jax.'):
        inner = node.module.removeprefix('kd_jax.')
        yield from (f'{inner}.{alias.name}' for alias in node.names)


FILES = sorted(
  path for path in ROOT.rglob('*.py') if 'configs' not in path.parts
)


@pytest.mark.parametrize('path', FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path):
  own = top(path)
  for module in imported(path):
    other = module.split('.')[0]
    if other == own:
      continue
    assert floor(other) <= floor(own), f'{own} imports {other}'
    assert other not in FLOORS[floor(own)] or floor(own) in (0, 1, 7), module


def test_a_method_imports_no_other_method():
  for path in (ROOT / 'methods').glob('*.py'):
    if path.stem in ('base', '__init__'):
      continue
    others = [m for m in imported(path) if m.startswith('methods.')]
    assert set(others) <= {'methods.base'}, path.name


def is_function(node):
  return isinstance(node, ast.FunctionDef)


def test_no_module_imports_tensorflow_or_pytorch():
  for path in FILES:
    tree = ast.parse(path.read_text())
    if path.name == 'weights.py':  # reads what torch.save wrote, when asked
      tree = ast.Module([n for n in tree.body if not is_function(n)], [])
    for node in ast.walk(tree):
      names = []
      if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
      elif isinstance(node, ast.ImportFrom):
        names = [node.module or '']
      for name in names:
        assert name.split('.')[0] not in ('tensorflow', 'torch'), path
