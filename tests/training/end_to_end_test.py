"""Whole runs: killed, resumed, repeated, stopped, and told no."""

import json
import pathlib
import re
import signal
import tempfile

import jax
import numpy as np
import pytest

from kd_jax.runtime import checkpoint
from tests.cli import train_test

# A run of seconds: the teacher in 6 steps, then 30 steps, each one saved.
SMALL = (
  '--config=kd',
  '--config.data.train_size=100',
  '--config.batch_size=20',
  '--config.epochs=6',
  '--config.student.args.widths=(4,4,8,16)',
  '--config.teacher.name=resnet8',
  '--config.teacher.args.widths=(4,4,8,16)',
  '--config.teacher.recipe.epochs=2',
  '--config.teacher.recipe.batch_size=20',
  '--config.eval_every=2.0',
  '--config.checkpoint_every=0.2',
  '--config.checkpoint_seconds=0.0',
  '--config.teacher.expected_top1=0.0',
  '--config.baseline=off',
)


def begin(folder, *more, **options):
  cache = str(folder / 'cache')
  return train_test.start(
    *SMALL, f'--workdir={folder / "run"}', *more, KD_JAX_CACHE=cache, **options
  )


def signalled(folder, name, moment, count):
  """Options of a run that gets the signal `name` at a moment of its own.

  It comes from within, as a busy machine may leave none of the moment to a
  process that looks from outside.

  Args:
    folder: of the test.
    name: of the signal.
    moment: as tests/training/faulty.py names it.
    count: which of its occurrences.
  """
  faults = tempfile.mkdtemp(prefix='fault-', dir=folder)
  fault = {'moment': moment, 'count': count, 'action': name, 'process': 0}
  return {
    'module': 'tests.training.faulty',
    'FAULT_FOLDER': faults,
    'FAULTS': json.dumps([fault]),
  }


def finish(process, code=0):
  with process:
    out, err = process.communicate()
  assert process.returncode == code, f'{out}\n{err}'
  return out + err


def leaves(folder):
  """Every array of a checkpoint folder's newest step, by path."""
  checkpoints = checkpoint.Checkpoints(folder)
  manager = checkpoints._manager
  step = manager.latest_step()
  like = {
    name: jax.ShapeDtypeStruct(
      meta.shape,
      meta.dtype,
      sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0]),
    )
    for name, meta in dict(manager.item_metadata(step)).items()
    if name != checkpoint.DIGEST
  }
  found = checkpoints.restore(step, like)
  checkpoints.close()
  return step, {name: np.asarray(value) for name, value in found.items()}


def assert_same_run(one, other):
  for name in ('run/checkpoints', 'run/student', 'run/teacher'):
    step, want = leaves(one / name)
    got_step, got = leaves(other / name)
    assert got_step == step
    assert set(got) == set(want)
    for key, value in want.items():
      np.testing.assert_array_equal(got[key], value, err_msg=f'{name} {key}')
  read = [
    json.loads((folder / 'run/result.json').read_text())
    for folder in (one, other)
  ]
  for key in ('top1', 'best_on_test', 'best_on_test_epoch', 'steps', 'params'):
    assert read[0][key] == read[1][key]


@pytest.fixture(scope='module')
def reference(tmp_path_factory):
  """A run that nothing interrupted."""
  folder = tmp_path_factory.mktemp('reference')
  out = finish(begin(folder))
  assert 'student, kd' in out
  return folder


def killed(folder, moment, count):
  """Starts the run, which is killed at that moment."""
  more = signalled(folder, 'SIGKILL', moment, count)
  finish(begin(folder, **more), code=-signal.SIGKILL)


@pytest.mark.drill
def test_killed_at_any_moment_the_run_ends_bit_for_bit_the_same(
  reference, tmp_path
):
  def half_written():
    return list(tmp_path.glob('run/checkpoints/*.orbax-checkpoint-tmp*'))

  killed(tmp_path, 'teacher/dispatch', 3)
  assert list(tmp_path.glob('cache/*/teacher-*/metrics.jsonl'))
  assert not (tmp_path / 'run/teacher.json').exists()
  killed(tmp_path, 'run/dispatch', 8)
  assert (tmp_path / 'run/metrics.jsonl').read_text().count('\n') >= 6
  killed(tmp_path, 'run/commit', 3)
  assert half_written()
  out = finish(begin(tmp_path))
  assert 'resuming at step' in out
  assert not half_written()
  assert_same_run(reference, tmp_path)


def test_a_finished_run_prints_its_result_and_does_not_train(reference):
  before = {p: p.stat().st_mtime_ns for p in (reference / 'run').rglob('*')}
  out = finish(begin(reference))
  assert 'student, kd' in out
  assert 'resuming' not in out
  after = {p: p.stat().st_mtime_ns for p in (reference / 'run').rglob('*')}
  changed = {p.name for p in after if after[p] != before.get(p)}
  assert changed <= {'.lock', 'config.json', 'run'}


def test_a_run_folder_holds_everything(reference):
  run = reference / 'run'
  names = {p.name for p in run.iterdir()}
  assert {
    'config.json',
    'metrics.jsonl',
    'log.txt',
    'curves.png',
    'checkpoints',
    'teacher',
    'teacher.json',
    'student',
    'result.json',
  } <= names
  assert any(name.startswith('events.') for name in names)
  assert (run / 'curves.png').read_bytes().startswith(b'\x89PNG')
  result = json.loads((run / 'result.json').read_text())
  assert result['protocol'] == 'last epoch'
  assert result['versions']['jax'] == jax.__version__
  assert result['teacher']['network'] == 'resnet8'


@pytest.mark.parametrize(
  ('every', 'name', 'code'),
  [
    ('0.2', 'SIGTERM', 75),
    pytest.param('100.0', 'SIGINT', 130, marks=pytest.mark.drill),
  ],
)
def test_a_signal_saves_and_the_same_command_goes_on(
  reference, tmp_path, every, name, code
):
  # With 100, no checkpoint is due where the signal comes.
  more = (f'--config.checkpoint_every={every}',)
  signal_ = signalled(tmp_path, name, 'run/dispatch', 4)
  out = finish(begin(tmp_path, *more, **signal_), code=code)
  assert ('Ctrl-C again ends at once' in out) is (name == 'SIGINT')
  assert 'the same command goes on' in out
  saved = re.search(r'saved at step (\d+)', out)[1]
  assert (tmp_path / 'run/checkpoints' / saved).is_dir()
  out = finish(begin(tmp_path, *more))
  assert f'resuming at step {saved}' in out
  assert_same_run(reference, tmp_path)


def test_another_configuration_in_the_folder_is_refused(reference):
  out = finish(begin(reference, '--config.seed=4'), code=2)
  assert 'config.seed: 0 there, 4 here' in out


def test_more_epochs_go_on_and_reuse_the_teacher(reference, tmp_path):
  import shutil

  shutil.copytree(reference, tmp_path, dirs_exist_ok=True)  # a moved run
  shutil.rmtree(tmp_path / 'cache')
  out = finish(begin(tmp_path, '--config.epochs=7'))
  assert 'resuming at step 30' in out
  result = json.loads((tmp_path / 'run/result.json').read_text())
  assert result['steps'] == 35
  assert leaves(tmp_path / 'run/student')[0] == 35


def test_a_teacher_below_its_expected_accuracy_stops_the_run(
  reference, tmp_path
):
  teacher = f'--config.teacher.path={reference / "run"}'
  more = (teacher, '--config.teacher.expected_top1=100.0')
  out = finish(begin(tmp_path, *more), code=1)
  assert 'expected_top1=100.0' in out
  assert not pathlib.Path(tmp_path / 'run/result.json').exists()


def test_a_nan_names_step_and_term_and_keeps_the_last_good_checkpoint(
  tmp_path,
):
  rate = '--config.optimizer.learning_rate'
  # The rate explodes at the second epoch.
  more = (f'{rate}.milestones=(1,)', f'{rate}.factor=1e30')
  out = finish(begin(tmp_path, *more), code=1)
  assert re.search(r'step \d+: loss/(ce|kd) is (nan|inf)', out), out
  step, found = leaves(tmp_path / 'run/checkpoints')
  assert step >= 5
  assert all(np.isfinite(value).all() for value in found.values())


@pytest.mark.drill
def test_a_streamed_run_ends_bit_for_bit_like_one_on_the_device(
  reference, tmp_path
):
  more = ('--config.data.device_mb=0', '--config.data.workers=1')
  finish(begin(tmp_path, *more))
  assert_same_run(reference, tmp_path)


@pytest.mark.drill
def test_a_held_out_set_takes_the_tests_place_until_the_end(tmp_path):
  more = ('--config.data.val_fraction=0.2', '--config.epochs=2')
  finish(begin(tmp_path, *more))
  lines = (tmp_path / 'run/metrics.jsonl').read_text().splitlines()
  records = [json.loads(line) for line in lines]
  assert sum('val/top1' in record for record in records) == 1
  assert [r['step'] for r in records if 'test/top1' in r] == [8]
  result = json.loads((tmp_path / 'run/result.json').read_text())
  assert result['train_images'] == 80
  assert 'best_on_val' in result
  assert 'best_on_test' not in result


@pytest.mark.drill
def test_several_seeds_share_the_teacher_and_are_compared_in_pairs(tmp_path):
  more = ('--seeds=0,1', '--config.epochs=1', '--config.baseline=train')
  out = finish(begin(tmp_path, *more))
  assert 'paired difference from the student alone' in out
  assert len(list(tmp_path.glob('cache/*/teacher-*'))) == 1
  assert len(list(tmp_path.glob('cache/*/alone-*'))) == 2
  figures = json.loads((tmp_path / 'run/seeds-0-1.json').read_text())
  assert figures['config']['method'] == 'kd'
  paired = np.subtract(figures['top1'], figures['alone_top1'])
  assert figures['difference']['mean'] == pytest.approx(paired.mean())
  taught = json.loads((tmp_path / 'run/seed0/teacher.json').read_text())
  assert figures['teacher_top1'] == [taught['top1']] * 2
  assert figures['student']['std'] == pytest.approx(
    np.std(figures['top1'], ddof=1)
  )
