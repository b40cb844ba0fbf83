"""The results page and its pictures."""

import json
import pathlib

from PIL import Image
import pytest

from kd_jax import config as config_lib
from kd_jax.cli import app
from kd_jax.reproduce import cells, compared, page, pictures, runner, store

ROOT = pathlib.Path(__file__).parent.parent.parent
RESULTS, DOCS = ROOT / 'results', ROOT / 'docs'
CELLS = cells.load()
KNOWN = {cell.recipe: cell for cell in CELLS}
AGAIN = 'run: kd-jax reproduce report'


def test_the_page_and_its_pictures_are_those_of_the_results():
  text = page.text(CELLS, RESULTS, runner.outdated(CELLS, RESULTS))
  assert (DOCS / 'results.md').read_text() == text, AGAIN
  digest = compared.digest(CELLS, RESULTS)
  for name in page.PICTURES:
    with Image.open(DOCS / name) as picture:
      assert picture.text[pictures.DIGEST] == digest, AGAIN


def keep(results, recipe, seed, top1, best):
  """Writes a file of results."""
  result = {
    'top1': top1, 'best_on_test': best, 'wall_s': 61.0, 'hardware': '1 x cpu',
    'commit': 'abc',
  }  # fmt: skip
  metrics = [{'epoch': 1.0, 'test/top1': top1}]
  held = {'cell': recipe, 'seed': seed, 'notes': [], 'result': result}
  store.write(
    results, KNOWN[recipe], {**held, 'config': None, 'metrics': metrics}
  )


def row(text, recipe):
  (line,) = [x for x in text.splitlines() if x.startswith(f'| `{recipe}` |')]
  return [cell.strip() for cell in line.strip('|').split('|')]


def test_ours_is_compared_by_the_protocol_of_the_published_number(tmp_path):
  for seed, (last, best) in enumerate(
    [(70.0, 71.0), (71.0, 71.5), (72.0, 72.0)]
  ):
    keep(tmp_path, 'tf_fd:cifar100_r20', seed, last, best)  # 70.62, best
  keep(tmp_path, 'kd:cifar100_r32x4_r8x4', 0, 73.0, 80.0)  # 73.33, last
  text = page.text(CELLS, tmp_path)
  # The mean of 71, 71.5 and 72 is 71.5, their deviation 0.5; t is 4.3027.
  assert row(text, 'tf_fd:cifar100_r20') == [
    '`tf_fd:cifar100_r20`', '70.62 (best)', '71.00 ± 1.00', '71.50 ± 0.50',
    '0, 1, 2', '+0.88', '-0.36 to +2.12', '1 x cpu', 'abc', '1 min 01 s',
  ]  # fmt: skip
  found = row(text, 'kd:cifar100_r32x4_r8x4')
  assert found[5:7] == ['-0.33', 'one seed']


def test_a_method_is_paired_with_the_student_alone_by_seed(tmp_path):
  for seed, alone, own in ((0, 60.0, 61.0), (1, 65.0, 66.5), (2, 61.0, None)):
    keep(tmp_path, 'ce:cifar100_r20', seed, alone, alone)
    if own:
      keep(tmp_path, 'tfd:cifar100_r20', seed, own, own)
  section = page.text(CELLS, tmp_path).split('## Beside the student alone')[1]
  found = row(section.split('## ')[0], 'tfd:cifar100_r20')
  # 1 and 1.5: their deviation is 0.354, t of one degree of freedom 12.706.
  assert found[1:] == ['`ce:cifar100_r20`', '2', '+1.25', '-1.93 to +4.43']


def test_a_recipe_that_has_changed_since_is_said(tmp_path, capsys):
  recipe = 'kd:digits'
  task = runner.Task(KNOWN[recipe], 0)
  config = runner.configuration(task, 'npz:digits.npz')
  keep(tmp_path, recipe, 0, 90.0, 91.0)
  path = store.path_of(tmp_path, *task)
  held = json.loads(path.read_text())

  def outdated():
    kept = config_lib.determining(config_lib.plain(config))
    path.write_text(json.dumps({**held, 'config': kept}))
    return runner.outdated(CELLS, tmp_path)

  assert outdated() == {}
  config.epochs = 7
  changes = ['config.epochs: 7 there, 60 here']
  assert outdated() == {task: changes}
  text = page.text(CELLS, tmp_path, outdated())
  line = f'- `{recipe}`, seed 0: the recipe has changed since: {changes[0]}.'
  assert line in text.splitlines()
  assert app.main(['reproduce', 'list', f'--results={tmp_path}']) == 0
  assert f'changed since ({changes[0]})' in capsys.readouterr().out


def test_what_was_not_run_is_said_and_what_is_recalled_is_not_quoted(tmp_path):
  text = page.text(CELLS, tmp_path)
  assert 'Nothing yet.' in text
  for cell in CELLS:
    assert row(text, cell.recipe)[4] == page.published(cell)
    if cell.certainty == 'recalled':
      assert f'{cell.published:.2f}' not in ' '.join(row(text, cell.recipe))
      assert cell.quotable is None
  assert any(cell.certainty == 'recalled' for cell in CELLS)


@pytest.mark.parametrize('count', [0, 1, 3])
def test_the_command_writes_page_and_pictures(tmp_path, count, capsys):
  for seed in range(count):
    keep(tmp_path / 'results', 'tf_fd:cifar100_r20', seed, 70.0 + seed, 72.0)
  places = [f'--results={tmp_path}/results', f'--docs={tmp_path}/docs']
  assert app.main(['reproduce', 'report', *places]) == 0
  assert 'written: ' in capsys.readouterr().out
  names = sorted(path.name for path in (tmp_path / 'docs').iterdir())
  assert names == sorted(['results.md', *page.PICTURES])
  for name in page.PICTURES:
    with Image.open(tmp_path / 'docs' / name) as picture:
      assert picture.width == 1200


def test_a_changed_result_shows(tmp_path):
  keep(tmp_path, 'kd:digits', 0, 90.0, 91.0)
  before = page.text(CELLS, tmp_path), compared.digest(CELLS, tmp_path)
  path = store.path_of(tmp_path, KNOWN['kd:digits'], 0)
  held = json.loads(path.read_text())
  held['result']['top1'] = 90.1
  path.write_text(json.dumps(held))
  assert page.text(CELLS, tmp_path) != before[0]
  assert compared.digest(CELLS, tmp_path) != before[1]
