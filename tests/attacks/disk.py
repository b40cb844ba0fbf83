"""A disk that is full, files that it has cut off, and a loss of power."""

import contextlib
import json
import os
import resource
import shutil
import sys

import pytest

from kd_jax import errors
from kd_jax.runtime import logging, run_dir
from tests import children
from tests.attacks import attack
from tests.training.end_to_end_test import leaves


@contextlib.contextmanager
def _files_of(most):
  """Lets the kernel refuse whatever makes a file longer than this, in bytes."""
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


_SIZES = {
  f'{name}-{most}': (name, most)
  for name in ('config.json', 'result.json', 'teacher.json')
  for most in (0, 1, 4096)
}


@attack(quick=True, cases=_SIZES)
def a_file_that_does_not_fit(place, case):
  """The old one stays, nothing else does, and the line names it."""
  name, most = case
  folder = run_dir.Folder(place / 'run')
  folder.write(name, {'old': 1})
  with (
    pytest.raises(errors.RunError, match=f'{name}.*nothing .* is lost'),
    _files_of(most),
  ):
    folder.write(name, {'new': 'x' * 10_000})
  assert folder.read(name) == {'old': 1}
  assert [path.name for path in (place / 'run').iterdir()] == [name]


@attack(quick=True, cases=(0, 1, 30, 45))
def a_record_that_does_not_fit(place, more):
  """The records before it stay, and later ones have lines of their own."""
  folder = run_dir.Folder(place)
  records = run_dir.Records(folder)
  records.append({'step': 1, 'test/top1': 10.0})
  size = (place / 'metrics.jsonl').stat().st_size
  with contextlib.suppress(OSError, errors.RunError), _files_of(size + more):
    records.append({'step': 2, 'text': 'x' * 100})
  assert (place / 'metrics.jsonl').stat().st_size == size
  records.append({'step': 3, 'test/top1': 30.0})
  assert [record['step'] for record in records.read()] == [1, 3]


@attack(quick=True)
def a_record_that_does_not_fit_is_said(place):
  """The line names the file."""
  records = run_dir.Records(run_dir.Folder(place))
  with pytest.raises(errors.RunError, match='metrics'), _files_of(1):
    records.append({'step': 1})


@attack(quick=True)
def a_line_of_the_log_that_does_not_fit(place):
  """What only informs ends no run."""
  reporter = logging.Reporter(run_dir.Folder(place))
  with _files_of(1):
    reporter.line('a line', important=False)
  reporter.line('another', important=False)
  (line,) = (place / 'log.txt').read_text().splitlines()
  assert line.endswith('another')


@attack(quick=True, cases=('config.json', 'result.json', 'teacher.json'))
def a_loss_of_power(place, name):
  """The content is on the disk before the name, and the name before the end."""
  done, real = [], {n: getattr(os, n) for n in ('fsync', 'replace', 'rename')}

  def fsync(number):
    done.append('sync ' + os.readlink(f'/proc/self/fd/{number}'))
    real['fsync'](number)

  def named(how):
    def told(old, new, **more):
      done.append(f'name {os.fspath(new)}')
      return real[how](old, new, **more)

    return told

  os.fsync, os.replace, os.rename = fsync, named('replace'), named('rename')
  try:
    run_dir.Folder(place).write(name, {'a': 1})
  finally:
    for how, function in real.items():
      setattr(os, how, function)
  home = os.path.realpath(place)
  assert done == [
    f'sync {home}/{name}.part',
    f'name {place}/{name}',
    f'sync {home}',
  ], done


# Two epochs of a teacher and of a student, with a checkpoint after each.
_RUN = (
  '--config=kd:digits', '--config.data.train_size=40',
  '--config.batch_size=20', '--config.epochs=2',
  '--config.checkpoint_every=0.5', '--config.eval_every=0.5',
  '--config.checkpoint_seconds=0.0', '--config.baseline=off',
  '--config.student.args.widths=(4,4,8,16)',
  '--config.teacher.name=resnet8',
  '--config.teacher.args.widths=(4,4,8,16)',
  '--config.teacher.recipe.epochs=1',
  '--config.teacher.recipe.batch_size=20',
  '--config.teacher.expected_top1=0.0', '--workdir=run',
)  # fmt: skip


def _trained(place, **options):
  """Returns how the training of `run` ended."""
  return children.run(
    [sys.executable, '-m', 'kd_jax', 'train', *_RUN],
    cwd=place,
    env={
      **os.environ,
      'JAX_PLATFORMS': 'cpu',
      'JAX_NUM_CPU_DEVICES': '1',
      'KD_JAX_CACHE': str(place / 'cache'),
    },
    **options,
  )


def _cut(path, how):
  content = path.read_bytes()
  path.write_bytes(
    {
      'empty': b'',
      'half': content[: len(content) // 2],
      'zeros': b'\0' * len(content),
    }[how]
  )


_MADE_AGAIN = {
  f'{name}-{how}': (name, how)
  for name, how in (
    ('result.json', 'half'),
    ('result.json', 'empty'),
    ('result.json', 'zeros'),
    ('teacher.json', 'half'),
    ('data.json', 'zeros'),
  )
}


@attack(quick=False, cases=_MADE_AGAIN)
def a_file_that_was_cut_off(place, case):
  """It is set aside with a line, and the run ends with the same bits."""
  name, how = case
  _trained(place, check=True)
  run = place / 'run'
  _, want = leaves(run / 'student')
  for done in ('result.json', 'data.json'):
    if done != name:
      (run / done).unlink(missing_ok=True)
  (run / name).touch()
  _cut(run / name, how if how != 'zeros' else 'empty')
  if how == 'zeros':
    (run / name).write_bytes(b'\0' * 200)
  ended = _trained(place)
  assert ended.returncode == 0, ended.stderr[-300:]
  assert f'{name} is cut off' in ended.stdout
  assert (run / f'{name}.cut').exists()
  json.loads((run / 'result.json').read_text())
  _, got = leaves(run / 'student')
  assert all((got[leaf] == want[leaf]).all() for leaf in want)


@attack(quick=False, cases=('half', 'empty', 'zeros'))
def a_configuration_that_was_cut_off(place, how):
  """Nobody knows what run it is: a line, and nothing is changed."""
  _trained(place, check=True)
  _cut(place / 'run/config.json', how)
  before = sorted(path.name for path in (place / 'run').iterdir())
  ended = _trained(place)
  assert ended.returncode == 2, f'exit code {ended.returncode}'
  assert 'config.json is cut off' in ended.stderr
  assert 'Traceback' not in ended.stderr
  assert sorted(path.name for path in (place / 'run').iterdir()) == before


@attack(quick=False)
def a_configuration_that_was_cut_off_at_the_start(place):
  """Nothing was trained yet, so that nothing is unknown."""
  (place / 'run').mkdir()
  (place / 'run/config.json').write_text('{"method": "k')
  ended = _trained(place)
  assert ended.returncode == 0, ended.stderr[-300:]
  assert (place / 'run/config.json.cut').exists()


@attack(quick=False, cases=('last', 'middle'))
def a_record_that_was_cut_off(place, where):
  """The others are read."""
  _trained(place, check=True)
  (place / 'run/result.json').unlink()
  metrics = place / 'run/metrics.jsonl'
  lines = metrics.read_text().splitlines()
  at = -1 if where == 'last' else 0
  lines[at] = lines[at][:20]
  metrics.write_text('\n'.join(lines))
  ended = _trained(place)
  assert ended.returncode == 0, ended.stderr[-300:]


@attack(quick=False, cases=('checkpoint', 'all', 'teacher', 'cached'))
def arrays_that_were_cut_off(place, which):
  """The run goes on from what is whole, or says what to do."""
  _trained(place, check=True)
  run = place / 'run'
  _, want = leaves(run / 'student')
  (run / 'result.json').unlink()
  checkpoints = sorted((run / 'checkpoints').glob('[0-9]*'))
  cached = next((place / 'cache').rglob('teacher-*/student'))
  harmed = {
    'checkpoint': checkpoints[-1:],
    'all': checkpoints,
    'teacher': [run / 'teacher'],
    'cached': [cached],
  }[which]
  for folder in harmed:
    data = [path for path in folder.rglob('d/*') if path.is_file()]
    _cut(max(data, key=lambda path: path.stat().st_size), 'half')
  if which == 'cached':
    shutil.rmtree(run)
  ended = _trained(place)
  if which in ('all', 'cached'):
    assert ended.returncode == 1, f'exit code {ended.returncode}'
    assert len(ended.stderr.splitlines()) == 1, ended.stderr[-300:]
    return
  assert ended.returncode == 0, ended.stderr[-300:]
  _, got = leaves(run / 'student')
  assert all((got[leaf] == want[leaf]).all() for leaf in want)


@attack(quick=False, cases=(0, 2000, 20_000))
def a_training_whose_files_do_not_fit(place, most):
  """One line and exit code 1; with room, the same command ends well."""

  def limit():
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

  ended = _trained(place, preexec_fn=limit)
  assert ended.returncode == 1, f'exit code {ended.returncode}'
  # TensorStore's threads may add that the loop that waited for them is closed.
  (line,) = (x for x in ended.stderr.splitlines() if x.startswith('kd_jax: '))
  assert 'cannot write' in line or 'failed' in line
  ended = _trained(place)
  assert ended.returncode == 0, ended.stderr[-300:]
