"""A teacher by its path: a run, an export, or a mistake."""

import pytest

from kd_jax import build, errors, runs, sharding, teachers, trainer
from kd_jax.data import digits, resident
from tests import finished


def config(path, widths=(4, 4, 8, 16)):
  made = finished.config('kd')
  made.data.train_size, made.epochs, made.batch_size = 20, 1, 20
  made.teacher.args.widths = widths
  made.teacher.path = str(path)
  made.teacher.expected_top1 = 0.0
  return made


def test_a_run_and_its_export_teach_alike(tmp_path):
  mesh = sharding.make_mesh(1)
  test = resident.Resident(digits.read('test'), digits.INFO, mesh)
  result = finished.result('kd')
  for name in ('kd', 'kd_out'):
    made = config(finished.places() / name)
    parts, folder = build.build(made), runs.Folder(tmp_path / name)
    teachers.check(made, parts, folder)
    frozen, facts = teachers.obtain(made, parts, folder, test, None, print)
    assert facts['top1'] == result['top1']
    assert facts['wall_s'] == result['wall_s']
    assert facts['from'] == str(finished.places() / name)
    assert set(frozen['teacher']) == {'params', 'batch_stats'}
    # It is the run's own from now on.
    made.teacher.path = 'gone'
    teachers.check(made, parts, folder)
    _, again = teachers.obtain(made, parts, folder, test, None, print)
    assert again == facts


@pytest.mark.parametrize(
  ('name', 'widths', 'message'),
  [
    ('nothing', (4, 4, 8, 16), 'nothing is not there'),
    ('kd/config.json', (4, 4, 8, 16), 'neither a finished run'),
    ('pics_out', (4, 4, 8, 16), 'does not stand alone'),
    ('kd_out', (8, 8, 16, 32), 'is another one: '),
  ],
)
def test_a_wrong_path_is_one_line_and_leaves_nothing(
  tmp_path, name, widths, message
):
  made = config(finished.places() / name, widths)
  with pytest.raises(errors.UsageError, match=message) as raised:
    trainer.train(made, runs.Folder(tmp_path / 'run'))
  assert str(raised.value).startswith('config.teacher.path=')
  assert '\n' not in str(raised.value)
  assert not list(tmp_path.iterdir())
