"""curves.png: what it says, and that a run does not depend on it."""

from matplotlib import figure
import pytest

from kd_jax.runtime import run_dir
from kd_jax.tasks import classification
from kd_jax.training import picture, run
from tests.training import recovery_test

METRIC = classification.Classification.headline


@pytest.fixture
def drawn(monkeypatch):
  """The figures that were saved."""
  found, save = [], figure.Figure.savefig

  def keep(self, *args, **kwargs):
    found.append(self)
    save(self, *args, **kwargs)

  monkeypatch.setattr(figure.Figure, 'savefig', keep)
  return found


def record(epoch, **more):
  weighted = {f'train/weighted/{n}': 0.5 / epoch for n in 'abcdefg'}
  weighted['train/weighted/off'] = 0.0
  means = {'train/total': 1.0 / epoch, 'train/top1': 10.0 * epoch}
  return {'epoch': epoch, **means, **weighted, **more}


def labels(axes):
  return [text.get_text() for text in axes.get_legend().get_texts()]


def test_the_picture_has_a_title_known_lines_and_no_empty_entry(
  tmp_path, drawn
):
  records = [record(1), record(2, **{'test/top1': 40.0})]
  known = {'teacher': 80.0, 'student alone': 70.0}
  path = tmp_path / 'curves.png'
  picture.curves(records, path, METRIC, 'kd: a to b, digits', known)
  (found,) = drawn
  assert found.get_suptitle() == 'kd: a to b, digits'
  left, right = found.axes
  assert labels(left) == ['total', *'abcdefg']  # 'off' has no curve
  assert labels(right) == [
    'train', 'test', 'teacher (test) 80.00', 'student alone (test) 70.00'
  ]  # fmt: skip
  for axes in found.axes:
    looks = [(x.get_color(), x.get_linestyle()) for x in axes.get_lines()]
    assert len({*looks}) == len(looks)
  assert path.read_bytes().startswith(b'\x89PNG')


def test_a_negative_loss_is_shown(tmp_path, drawn):
  records = [record(1), record(2, **{'train/weighted/a': -1.0})]
  picture.curves(records, tmp_path / 'curves.png', METRIC, '', {})
  assert drawn[0].axes[0].get_yscale() == 'linear'


def test_a_run_without_records_has_a_picture_without_legends(tmp_path, drawn):
  picture.curves([], tmp_path / 'curves.png', METRIC, '', {})
  assert [axes.get_legend() for axes in drawn[0].axes] == [None, None]


def test_a_picture_that_cannot_be_drawn_does_not_end_the_run(
  tmp_path, monkeypatch, capsys
):
  def fail(*_):
    raise RuntimeError('no font')

  monkeypatch.setattr(picture, 'curves', fail)
  config = recovery_test.config_of()
  config.epochs = 1
  assert run.train(config, run_dir.Folder(tmp_path))['steps'] == 4
  assert 'curves.png is not drawn: no font' in capsys.readouterr().out
