"""The notebooks of examples/ run as they stand, and end where they say."""

import json
import pathlib
import sys

import jax
import matplotlib
import matplotlib.pyplot as plt
import pytest

EXAMPLES = pathlib.Path(__file__).parent.parent / 'examples'
NAMES = sorted(path.stem for path in EXAMPLES.glob('*.ipynb'))
CHANCE = 10.0  # percent, of ten digits


def cells(name):
  """The cells of a notebook."""
  return json.loads((EXAMPLES / f'{name}.ipynb').read_text())['cells']


@pytest.fixture
def left_by(tmp_path, monkeypatch):
  """Runs a notebook in a folder of its own; returns the names it leaves.

  The teacher that two notebooks share is trained once: the cache is the test
  session's.
  """
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'path', [*sys.path])

  def run(name):
    names = {'__name__': '__main__'}
    for cell in cells(name):
      if cell['cell_type'] == 'code':
        exec(compile(''.join(cell['source']), name, 'exec'), names)
    return names

  backend = matplotlib.get_backend()
  matplotlib.use('Agg')
  # Notebooks promote ranks as users' code does.
  with jax.numpy_rank_promotion('allow'):
    yield run
  plt.close('all')
  matplotlib.use(backend)


@pytest.mark.parametrize('name', NAMES)
def test_a_notebook_is_kept_without_outputs(name):
  for cell in cells(name):
    if cell['cell_type'] == 'code':
      assert cell['outputs'] == []
      assert cell['execution_count'] is None


def test_every_notebook_is_run_by_a_test():
  source = pathlib.Path(__file__).read_text()
  for name in NAMES:
    assert f"left_by('{name}')" in source


def test_losses_in_a_loop_of_ones_own_distil_a_network(left_by):
  left = left_by('losses_in_your_own_loop')
  first, last = left['history'][0], left['history'][-1]
  assert set(first) == {'kd', 'attention'}
  assert last['kd'] < first['kd'] / 2
  assert min(left['accuracies']['distilled']) > 5 * CHANCE
  assert float(abs(left['to_student']).max()) > 0
  assert float(abs(left['to_teacher']).max()) == 0


@pytest.mark.drill
def test_a_recipe_distils_on_digits(left_by):
  left = left_by('distil_on_digits')
  assert left['distilled']['top1'] > 5 * CHANCE
  assert left['alone']['top1'] > 5 * CHANCE
  assert left['alone']['teacher'] is None
  # What `restore.load` gives labels every test image as the run did.
  counted = left['distilled']['top1'] * left['distilled']['test_images'] / 100
  assert left['correct'] == round(counted)
  losses = [r['train/total'] for r in left['records']['distilled']]
  assert losses[-1] < losses[0] / 2
  assert len(plt.get_fignums()) == 2


@pytest.mark.drill
def test_a_method_of_ones_own_trains_what_it_declares(left_by):
  left = left_by('write_a_method')
  declared = left['method'].terms
  assert {t: set(g) for t, g in left['routes'].items()} == {
    term: set(groups) for term, groups in declared.items()
  }
  assert "did you mean 'temperature'?" in left['mistake']
  assert left['result']['method'] == left['config'].method
  assert left['result']['kept'] == ['student']
  assert left['result']['top1'] > 5 * CHANCE
  values = [r['train/loss/direction'] for r in left['records']]
  assert values[-1] < values[0] / 2
