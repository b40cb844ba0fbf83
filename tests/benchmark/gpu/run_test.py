"""The parts one after the other, and how commands are ended."""

import importlib.metadata
import json
import os
import pathlib
import re
import signal
import sys
import time
import tomllib

import pytest

from tests.benchmark.gpu.scripts import ROOT, script


def alive(number):
  """Whether a process runs; a dead one that nobody waited for does not."""
  try:
    stat = pathlib.Path(f'/proc/{number}/stat').read_text()
  except OSError:
    return False
  return stat.rpartition(')')[2].split()[0] != 'Z'


def test_a_deadline_ends_a_command_with_all_that_it_started(tmp_path):
  sleeps = 'import time; time.sleep(600)'
  starts = (
    'import signal, sys\nfrom subprocess import Popen\n'
    'signal.signal(signal.SIGTERM, signal.SIG_IGN)\n'
    f'one = Popen([sys.executable, "-c", "{sleeps}"], '
    'start_new_session=True)\n'
    'print(one.pid, flush=True)\n'
    'one.wait()'
  )
  log = tmp_path / 'log'
  ended = script('child').run(
    [sys.executable, '-c', starts], 3.0, log=log, grace_s=0.3
  )
  assert ended.stopped
  assert ended.code == -signal.SIGKILL
  assert ended.seconds < 100  # where it would last 600
  number = int(log.read_text())
  deadline = time.monotonic() + 100
  while alive(number) and time.monotonic() < deadline:
    time.sleep(0.05)
  assert not alive(number)


def test_a_command_that_is_stopped_may_end_by_itself(tmp_path):
  saves = (
    'import signal, sys, time\n'
    'signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n'
    'print("ready", flush=True)\n'
    'time.sleep(600)'
  )
  log = tmp_path / 'log'
  log.touch()
  ended = script('child').run(
    [sys.executable, '-c', saves],
    60.0,
    log=log,
    stop=lambda: log.stat().st_size > 0,
  )
  assert (ended.code, ended.stopped) == (75, True)


def test_a_command_that_ends_in_time_was_not_stopped(tmp_path):
  ended = script('child').run(
    [sys.executable, '-c', 'raise SystemExit(3)'], 60.0, log=tmp_path / 'log'
  )
  assert (ended.code, ended.stopped) == (3, False)


def test_a_module_of_every_package_that_kd_jax_needs_is_imported_first():
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text())
  needed = {
    script('pack').plain(re.split(r'[\[><=]', text)[0])
    for text in project['project']['dependencies']
  }
  owners = importlib.metadata.packages_distributions()
  tops = [name.split('.')[0] for name in script('imports').MODULES]
  named = {
    script('pack').plain(owner) for top in tops for owner in owners.get(top, ())
  }
  assert needed <= named


def test_a_module_that_is_missing_is_named_with_exit_code_2(
  tmp_path, monkeypatch, capsys
):
  (tmp_path / 'simplejpeg.py').write_text('raise ImportError("no such file")')
  run = script('run')
  path = f'{tmp_path}{os.pathsep}{run.PATHS["PYTHONPATH"]}'
  monkeypatch.setitem(run.PATHS, 'PYTHONPATH', path)
  assert run.main([str(tmp_path / 'out'), '--platform=cpu']) == 2
  said = capsys.readouterr().err
  assert 'cannot import simplejpeg (ImportError: no such file)' in said
  assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
  ('option', 'said'),
  [
    ('--rows=KD, KDD', "unknown value of --rows: 'KDD'"),
    ('--student=resnet9', "'resnet9'; did you mean 'resnet8'"),
    ('--check_config=kdd', "'kdd'"),
    ('--recipe=tf_fd:cifar', "'cifar'"),
    ('--train_arg=--config.epoch=3', "did you mean 'epochs'"),
    ('--train_arg=--config.student.name=resnet9', "did you mean 'resnet8'"),
  ],
)
def test_what_an_option_names_is_looked_for_before_the_first_part(option, said):
  args = script('run').parse(['out', option, '--platform=cpu'])
  options = json.loads(json.dumps(vars(args), default=str))
  assert said in script('imports').wrong(options)


def test_options_that_name_what_is_there_are_not_wrong():
  args = script('run').parse(['out', '--tiny', '--rows=KD , Tf-FD*'])
  options = json.loads(json.dumps(vars(args), default=str))
  assert script('imports').wrong(options) == ''


ABOUT = {'platform': 'cpu', 'hardware': 'fake', 'cores': 1, 'versions': {}}


@pytest.fixture
def parts(tmp_path, monkeypatch):
  """Parts that are written by the test: parts(check='raise ...')."""
  run = script('run')
  monkeypatch.setattr(run, 'HERE', tmp_path)
  monkeypatch.setattr(run, '_about', lambda *_: ABOUT)
  monkeypatch.setattr(run, '_LEAST_S', 0.5)
  monkeypatch.setattr(run, '_TRAIN_S', 0.5)

  def write(**codes):
    for name, code in codes.items():
      (tmp_path / f'{name}.py').write_text(code)
    return run

  return write


KEEPS = (
  'import json, pathlib, sys\n'
  'given = json.loads(pathlib.Path(sys.argv[1]).read_text())\n'
  'text = json.dumps({"text": "the checks"})\n'
  '(pathlib.Path(given["results"]) / "check.json").write_text(text)\n'
  'print("all is well")'
)


def test_a_part_that_fails_or_runs_over_is_reported_and_the_next_begins(
  parts, tmp_path, capsys
):
  run = parts(
    check=KEEPS + '\nraise SystemExit("it broke")',
    table='import time; print("begun", flush=True); time.sleep(600)',
    train='print("trained")',
  )
  out = tmp_path / 'out'
  code = run.main([str(out), '--seconds=60', '--table_s=1'])
  assert code == 1
  kept = json.loads((out / 'results' / 'run.json').read_text())['parts']
  states = {name: part['state'] for name, part in kept.items()}
  assert states == {'check': 'failed', 'table': 'ran over', 'train': 'done'}
  said = capsys.readouterr().out
  assert 'the checks' in said
  assert 'check| it broke' in said
  assert 'table| begun' in said
  assert said.splitlines()[-2].startswith('train  done after 0 s: trained')


def test_a_folder_and_a_recipe_may_be_named_from_where_one_stands(
  tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  assert script('run').parse(['out']).out == tmp_path / 'out'
  (tmp_path / 'mine.py').write_text('')
  options = {'data': '', 'seed': 0, 'train_arg': [], 'keep_s': 60.0}
  for recipe, wanted in (
    ('mine.py:small', f'--config={tmp_path}/mine.py:small'),
    ('tf_fd:digits', '--config=tf_fd:digits'),
  ):
    given = {**options, 'recipe': recipe}
    assert wanted in script('train').arguments(given, tmp_path / 'place')


def test_a_part_without_time_is_not_begun(parts, tmp_path, monkeypatch):
  run = parts(check='import time; time.sleep(600)', train='print(1)')
  out = tmp_path / 'out'
  arguments = ['--seconds=3', '--check_s=2', '--parts=train,check']
  monkeypatch.setattr(run, '_END_S', 0.5)
  assert run.main([str(out), *arguments]) == 1
  kept = json.loads((out / 'results' / 'run.json').read_text())['parts']
  assert [part['state'] for part in kept.values()] == ['ran over', 'no time']


def test_training_is_not_begun_just_to_be_stopped(parts, tmp_path):
  run = parts(train='raise SystemExit("must not begin")')
  out = tmp_path / 'out'
  arguments = ['--parts=train', '--seconds=60', '--stop_s=55']
  assert run.main([str(out), *arguments]) == 1
  kept = json.loads((out / 'results' / 'run.json').read_text())['parts']
  assert kept['train']['state'] == 'no time'


def test_sigterm_ends_the_part_at_work_and_no_other_begins(parts, tmp_path):
  run = parts(
    check='import os, signal, time\n'
    'os.kill(os.getppid(), signal.SIGTERM)\ntime.sleep(600)',
    table='raise SystemExit("must not begin")',
  )
  out = tmp_path / 'out'
  assert run.main([str(out), '--seconds=60', '--parts=check,table']) == 75
  kept = json.loads((out / 'results' / 'run.json').read_text())['parts']
  assert [part['state'] for part in kept.values()] == ['stopped', 'stopped']


@pytest.mark.parametrize(
  ('arguments', 'said'),
  [
    (['--parts=check,tables'], "unknown value of --parts: 'tables'"),
    (['--seconds=5'], '--seconds=5 is too little'),
    (['--chunk_mb=0'], '--chunk_mb=0 is too little: give at least 1'),
    (['--train_s=30'], '--train_s=30 is too little: give at least 65'),
    (['--resume=nowhere'], '--resume=nowhere holds no SHA256SUMS'),
    (['--data=npz:gone.npz'], '--data=npz:gone.npz: there is no such file'),
    (
      ['--compile_mode=max'],
      "--compile_mode: 'max' (there are: default, max-auto",
    ),
    (['--work=/'], '/ is there, from an earlier run'),
  ],
)
def test_a_wrong_option_is_refused_in_one_line(
  arguments, said, tmp_path, capsys
):
  assert script('run').main([str(tmp_path / 'out'), *arguments]) == 2
  found = capsys.readouterr().err
  assert said in found
  assert found.count('\n') == 1


def test_an_option_beside_tiny_wins():
  args = script('run').parse(['out', '--tiny', '--steps=7'])
  assert (args.steps, args.student) == (7, 'resnet8')
