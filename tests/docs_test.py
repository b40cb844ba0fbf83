"""README and docs: their Python runs, and what they name exists."""

import importlib.util
import pathlib
import re

import jax
from ml_collections import ConfigDict
import numpy as np
import pytest

from kd_jax import config as config_lib
from kd_jax.cli import app, listing
from kd_jax.distill import build
from kd_jax.methods import registry

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').rglob('*.md'))]
TEXTS = {str(path.relative_to(ROOT)): path.read_text() for path in PAGES}
BLOCKS = [
  pytest.param(page, code, id=f'{page}:{code.splitlines()[0]}:{number}')
  for page, text in TEXTS.items()
  for number, code in enumerate(
    re.findall(r'```python\n(.*?)```', text, re.DOTALL)
  )
]
MOST_BYTES = 7 * 1024  # of README: the rest belongs to a page of docs/
# Folders of which a page may name files.
FOLDERS = 'benchmarks|configs|docs|kd_jax|launch|results|tests'
YOURS = ('mine', 'mine_test')  # files that a reader writes
each_page = pytest.mark.parametrize('page', TEXTS)


@pytest.mark.parametrize(('page', 'code'), BLOCKS)
def test_a_block_of_python_runs_as_it_stands(page, code):
  # Examples promote ranks as users' code does.
  with jax.numpy_rank_promotion('allow'):
    exec(compile(code, page, 'exec'), {'__name__': 'docs'})


@pytest.mark.parametrize(
  ('page', 'columns'), [('README.md', 4), ('docs/methods.md', 8)]
)
def test_the_table_of_methods_has_each_of_them_once(page, columns):
  section = TEXTS[page].split('# Methods\n')[1].split('\n## ')[0]
  rows = re.findall(r'^\| `(\w+)` \|.*$', section, re.MULTILINE)
  assert sorted(rows) == registry.names()
  lines = [x for x in section.splitlines() if x.startswith('|')]
  assert {len(line.split('|')) - 2 for line in lines} == {columns}
  for name in registry.names():
    assert config_lib.find(name)


def weight_text(spec):
  """A term's weight, a number or a schedule, as the page says it."""
  if not isinstance(spec, ConfigDict):
    return f'{spec:g}'
  kind = spec.kind.replace('_', ' ')
  return f'{spec.value:g} ({kind} of {spec.epochs} epochs)'


def terms_text(weights):
  """The terms that are not off, with their weights."""
  return ', '.join(
    f'`{name}` {weight_text(weight)}'
    for name, weight in weights.items()
    if isinstance(weight, ConfigDict) or weight
  )


def terms_row(method, recipe):
  """The row of a recipe in the table of terms."""
  config = config_lib.load(f'{method}:{recipe}')
  texts = [
    f'first {terms_text(phase.weights)}; then'
    for phase in config.phases.values()
  ]
  texts.append(terms_text(config.weights))
  known = {'num_classes': 100, 'train_labels': np.arange(200) % 100}
  made = build.phases_of(config, known, 10)[-1].exp.method
  taps = getattr(made, 'taps', ()) or [tap for _, tap in made.pairs()]
  shown = ', '.join(f'`{tap}`' for tap in taps) or '–'
  return f'| `{method}:{recipe}` | {" ".join(texts)} | {shown} |'


def test_the_table_of_terms_is_that_of_the_recipes():
  section = TEXTS['docs/methods.md'].split('# Terms and weights\n')[1]
  rows = re.findall(r'^\| `.*$', section.split('\n## ')[0], re.MULTILINE)
  named = [re.match(r'\| `(\w+):(\w+)`', row).groups() for row in rows]
  assert [method for method, _ in named] == registry.names()
  assert rows == [terms_row(*each) for each in named]


def test_readme_is_short():
  assert len((ROOT / 'README.md').read_bytes()) < MOST_BYTES


def test_readme_has_the_test_command_at_a_lines_start():
  """`.ci/run` reads it there."""
  assert '\npython -m pytest\n' in TEXTS['README.md']


@each_page
def test_a_relative_link_leads_to_a_file(page):
  for link in re.findall(r'\]\(([^)\s]+)\)', TEXTS[page]):
    if re.match(r'[a-z]+:', link):
      continue
    path, _, anchor = link.partition('#')
    target = (ROOT / page).parent / path if path else ROOT / page
    assert target.is_file(), link
    if anchor:
      assert anchor in headings(target.read_text()), link


def headings(text):
  """The anchors of a page's headings, as mkdocs names them."""
  titles = re.findall(r'^#+ (.*)$', text, re.MULTILINE)
  words = (re.sub(r'[^\w\s-]', '', title).lower() for title in titles)
  return {re.sub(r'\s+', '-', each.strip()) for each in words}


@each_page
def test_a_file_that_is_named_is_there(page):
  for name in re.findall(rf'(?<![\w./-])((?:{FOLDERS})/[\w./-]*)', TEXTS[page]):
    path = ROOT / name.rstrip('.')
    assert path.exists() or path.stem in YOURS, name


@each_page
def test_a_verb_of_kd_jax_exists(page):
  text = TEXTS[page]
  named = re.findall(r'\bkd-jax ([a-z]\w*)', text)
  named += re.findall(r'python -m kd_jax ([a-z]\w*)', text)
  assert {*named} <= {*app.VERBS}


@each_page
def test_a_module_that_is_run_exists(page):
  for name in re.findall(r'python -m ((?:kd_jax|tests)[\w.]*)', TEXTS[page]):
    assert importlib.util.find_spec(name.rstrip('.')), name


@each_page
def test_a_key_of_the_configuration_exists(page):
  keys = re.findall(
    r'(?<![\w.])(?:--)?config\.([a-z]\w*(?:\.\w+)*)(?![\w(])', TEXTS[page]
  )
  for key in keys:
    assert is_key(key), f'config.{key}'


def is_key(path):
  """Whether a path is a key, a group of keys, or within an open key."""
  return any(
    path == key.path
    or key.path.startswith(f'{path}.')
    or (isinstance(key.default, ConfigDict) and path.startswith(f'{key.path}.'))
    for key in config_lib.KEYS
  )


@each_page
def test_a_recipe_that_is_named_exists(page):
  known = {name for name, _ in listing.recipes()}
  files = '|'.join(registry.names())
  pattern = rf'(?<![\w/.-])(?:configs/)?({files})(?:\.py)?:(\w+)'
  named = {':'.join(each) for each in re.findall(pattern, TEXTS[page])}
  assert named <= known
