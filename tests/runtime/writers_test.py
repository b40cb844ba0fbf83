"""Every writer has each step once, and none of them can end a run."""

import importlib.util
import json
import os
import signal
import sys
import time

import pytest
from tensorboardX.proto import event_pb2

from kd_jax import config as config_lib
from kd_jax import errors
from kd_jax.runtime import loggers, logging, run_dir, trackers, writers
from kd_jax.training import run
from tests import children
from tests.cli import train_test
from tests.runtime import own_writer

KEY = '0123456789' * 4  # of nobody
CONFIG = {'epochs': 2, 'rules': 'x' * 9000, 'optimizer': {'name': 'sgd'}}
TAGS = {'method': 'kd', 'recipe': '', 'kd_jax': '1.0'}
RESULT = {'top1': 50.0, 'method': 'kd', 'teacher': {'top1': 60.0}}


@pytest.fixture
def alone(tmp_path, monkeypatch):
  """Nothing of W&B and MLflow but what is in the test's folder."""
  for name in [n for n in os.environ if n.startswith(('WANDB', 'MLFLOW'))]:
    monkeypatch.delenv(name)
  monkeypatch.setenv('HOME', str(tmp_path / 'home'))
  monkeypatch.setenv('WANDB_MODE', 'offline')
  monkeypatch.setenv('WANDB_API_KEY', KEY)
  monkeypatch.setenv('WANDB_ERROR_REPORTING', 'false')
  monkeypatch.setenv('MLFLOW_DISABLE_TELEMETRY', 'true')
  monkeypatch.setenv('MLFLOW_TRACKING_URI', f'sqlite:///{tmp_path}/mlflow.db')
  (tmp_path / 'run').mkdir()
  yield
  end_wandb()


def end_wandb():
  """Ends W&B's process, and with it what W&B read of the environment."""
  if sys.modules.get('wandb'):
    sys.modules['wandb'].teardown()


def values(step):
  return {'epoch': step / 2, 'step/total': 1.0 / step, 'test/b=1': 0.5}


def from_lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def from_jsonl(folder):
  return from_lines(folder / 'metrics.jsonl')


def from_own(folder):
  return from_lines(folder / 'own.jsonl')


def from_tensorboard(folder):
  """The rows that TensorBoard shows: a new start hides what comes after it."""
  rows = {}
  for path in sorted(folder.glob('events.*')):
    content = path.read_bytes()
    while content:
      size = int.from_bytes(content[:8], 'little')
      event = event_pb2.Event.FromString(content[12 : 12 + size])
      content = content[12 + size + 4 :]
      if event.session_log.status == event_pb2.SessionLog.START:
        rows = {key: row for key, row in rows.items() if key < event.step}
      for value in event.summary.value:
        row = rows.setdefault(event.step, {'step': event.step})
        assert value.tag not in row
        row[value.tag] = value.simple_value
  return list(rows.values())


def wandb_records(folder):
  """The records of all starts of a run, by the reader of W&B itself."""
  found = []
  for path in sorted(folder.glob('wandb/offline-run-*/*.wandb')):
    command = [sys.executable, '-m', 'wandb', 'beta', 'leet', 'inspect']
    said = children.run([*command, '--json', str(path)], check=True)
    found += map(json.loads, said.stdout.splitlines())
  return found


def from_wandb(folder):
  return [
    record['history']['item']
    for record in wandb_records(folder)
    if record['type'] == 'history'
  ]


def mlflow_run(folder):
  import mlflow

  client = mlflow.MlflowClient()
  return client, client.get_run(
    json.loads((folder / 'mlflow.json').read_text())['id']
  )


def from_mlflow(folder):
  client, found = mlflow_run(folder)
  return [
    {'step': point.step, 'step/total': point.value}
    for point in client.get_metric_history(found.info.run_id, 'step/total')
  ]


def missing(name):
  """Whether a package is missing; a folder of its name is none."""
  found = importlib.util.find_spec(name)
  return found is None or found.origin is None


def extra(name, *case):
  return pytest.param(
    *case,
    id=name,
    marks=[
      pytest.mark.skipif(missing(name), reason=f'needs kd_jax[{name}]'),
      pytest.mark.filterwarnings('ignore'),  # of others' code
    ],
  )


@pytest.mark.parametrize(
  ('make', 'rows'),
  [
    pytest.param(writers.Jsonl, from_jsonl, id='jsonl'),
    pytest.param(writers.TensorBoard, from_tensorboard, id='tensorboard'),
    pytest.param(own_writer.Own, from_own, id='own'),
    extra('wandb', trackers.Wandb, from_wandb),
    extra('mlflow', trackers.MLflow, from_mlflow),
  ],
)
def test_a_resumed_run_has_each_step_once(make, rows, alone, tmp_path):
  folder = run_dir.Folder(tmp_path / 'run')
  about = writers.About(folder, CONFIG, TAGS)
  writer = make()
  assert isinstance(writer, writers.Writer)
  writer.open(about, 0, [])
  for step in (1, 2, 3, 4, 5):
    writer.scalars(step, values(step))
    if step in (2, 5):
      writer.flush()
  writer.close(None)

  if make is writers.TensorBoard:
    time.sleep(1.1)  # its files are named by the second
  writer = make()  # stopped at step 5, and its newest checkpoint is of step 3
  past = [{'step': step, **values(step)} for step in (1, 2, 3)]
  writer.open(about, 3, past)
  for step in (4, 5, 6):
    writer.scalars(step, values(step))
  writer.close(RESULT)
  found = rows(tmp_path / 'run')
  assert [row['step'] for row in found] == [1, 2, 3, 4, 5, 6]
  for row in found:
    assert row['step/total'] == pytest.approx(1 / row['step'])
  written = (p for p in tmp_path.rglob('*') if p.is_file())
  assert not [path for path in written if KEY.encode() in path.read_bytes()]


@pytest.mark.parametrize('make', [extra('wandb', trackers.Wandb)])
def test_wandb_has_configuration_tags_and_figures(make, alone, tmp_path):
  writer = make()
  about = writers.About(run_dir.Folder(tmp_path / 'run'), CONFIG, TAGS)
  writer.open(about, 2, [{'step': 2, **values(2)}])  # named only now
  writer.close(RESULT)
  records = wandb_records(tmp_path / 'run')
  (said,) = [r['run'] for r in records if r['type'] == 'run']
  assert (
    said['run_id']
    == json.loads((tmp_path / 'run/wandb.json').read_text())['id']
  )
  assert (said['project'], said['display_name']) == ('kd_jax', 'run')
  assert set(said['tags']) == {'method:kd', 'kd_jax:1.0'}
  assert CONFIG.items() <= said['config']['update'].items()
  assert [row['step'] for row in from_wandb(tmp_path / 'run')] == [2]
  (axis,) = [r['metric'] for r in records if r['type'] == 'metric']
  assert axis['step_metric'] == 'step'
  summary = {}
  for record in records:
    summary |= record.get('summary', {}).get('update', {})
  assert summary['result/teacher/top1'] == 60.0
  assert 'result/method' not in summary


@pytest.mark.parametrize('make', [extra('mlflow', trackers.MLflow)])
def test_mlflow_has_configuration_tags_and_figures(make, alone, tmp_path):
  folder = run_dir.Folder(tmp_path / 'run')
  writer = make()
  writer.open(writers.About(folder, CONFIG, TAGS), 0, [])
  _, found = mlflow_run(tmp_path / 'run')
  assert found.info.status == 'RUNNING'
  assert found.data.params['optimizer.name'] == 'sgd'
  assert found.data.params['rules'] == 'x' * 497 + '...'
  writer.close(None)
  _, found = mlflow_run(tmp_path / 'run')
  assert found.info.status == 'KILLED'

  writer = make()
  more = {**CONFIG, 'epochs': 3, 'new': 1}  # MLflow keeps the first value
  past = [{'step': step, **values(step)} for step in range(1, 500)]
  writer.open(writers.About(folder, more, TAGS), 499, past)
  writer.close(RESULT)
  client, found = mlflow_run(tmp_path / 'run')
  assert found.info.status == 'FINISHED'
  assert found.info.run_name == 'run'
  assert found.data.tags['method'] == 'kd'
  assert found.data.tags['config.epochs'] == '3'
  assert found.data.params['epochs'] == '2'
  assert found.data.params['new'] == '1'
  assert found.data.metrics['result/teacher/top1'] == 60.0
  history = client.get_metric_history(found.info.run_id, 'test/b_1')
  assert [point.step for point in history] == [*range(1, 500)]

  # Another store does not know the run, and gets all of it.
  client.delete_run(found.info.run_id)
  writer = make()
  writer.open(writers.About(folder, more, TAGS), 3, past[:3])
  writer.close(None)
  assert [row['step'] for row in from_mlflow(tmp_path / 'run')] == [1, 2, 3]


KILLED = """
import os, signal, sys, time
from kd_jax.runtime import run_dir, trackers, writers
writer = trackers.Wandb()
writer.open(writers.About(run_dir.Folder(sys.argv[1])), 0, [])
for step in (1, 2, 3, 4, 5):
  writer.scalars(step, {'epoch': step, 'step/total': 1.0 / step})
writer.flush()
time.sleep(2)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize('make', [extra('wandb', trackers.Wandb)])
def test_wandb_after_a_kill_has_each_step_once(make, alone, tmp_path):
  command = [sys.executable, '-c', KILLED, tmp_path / 'run']
  with children.Child(command, env=train_test.environment()) as process:
    assert process.wait() == -signal.SIGKILL
  writer = make()
  folder = run_dir.Folder(tmp_path / 'run')
  past = [{'step': step, **values(step)} for step in (1, 2, 3)]
  writer.open(writers.About(folder), 3, past)
  for step in (4, 5, 6):
    writer.scalars(step, values(step))
  writer.close(RESULT)
  steps = [row['step'] for row in from_wandb(tmp_path / 'run')]
  assert steps == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize('make', [extra('wandb', trackers.Wandb)])
def test_wandb_without_a_key_is_refused(make, alone, monkeypatch):
  monkeypatch.delenv('WANDB_API_KEY')
  monkeypatch.setenv('WANDB_MODE', 'online')
  with pytest.raises(errors.UsageError, match='run `wandb login` or set'):
    make()
  monkeypatch.setenv('WANDB_API_KEY', 'short')
  end_wandb()
  with pytest.raises(errors.UsageError, match=r'logger wandb: .*40'):
    make()


@pytest.mark.parametrize(
  ('names', 'error'),
  [
    (['tensorbord'], "'tensorbord'; did you mean 'tensorboard'"),
    (['tensorboard'] * 2, "'tensorboard' is named twice"),
    (['nowhere:Writer'], "cannot import 'nowhere'"),
    (['tests.runtime.own_writer:Ow'], "did you mean 'Own'"),
    (['tests.runtime.own_writer:Half'], 'lacks scalars, flush, close'),
    (['json:loads'], "part of Python's standard library"),
    (['numpy:array'], 'is no class, but a builtin'),
    (['numpy:ndarray'], 'cannot be made: TypeError'),
  ],
)
def test_a_wrong_name_is_refused(names, error):
  with pytest.raises(errors.UsageError, match=error) as raised:
    loggers.make(names)
  assert '\n' not in str(raised.value)


@pytest.mark.parametrize('name', ['wandb', 'mlflow'])
def test_a_missing_extra_is_refused_before_data_is_read(
  name, tmp_path, monkeypatch
):
  monkeypatch.setitem(sys.modules, name, None)
  config = config_lib.default()
  config.data.name = 'folder:/nowhere'
  config.loggers = (name,)
  with pytest.raises(
    errors.UsageError, match=rf"pip install 'kd_jax\[{name}\]'$"
  ):
    run.train(config, run_dir.Folder(tmp_path / 'run'))
  assert not (tmp_path / 'run').exists()


def test_the_loggers_do_not_identify_a_run():
  config = config_lib.default()
  digest = config_lib.digest(config)
  config.loggers = ('tensorboard', 'wandb')
  assert config_lib.digest(config) == digest
  config.teacher.name = 'resnet20'
  assert config_lib.of_teacher(config).loggers == config.loggers


def reporter(folder, *names):
  return logging.Reporter(run_dir.Folder(folder), '', loggers.make(names))


def given_up(text):
  return [x for x in text.splitlines() if 'is given up' in x]


def test_a_writer_that_raises_is_given_up_and_the_run_goes_on(tmp_path, capsys):
  gone, own = (f'tests.runtime.own_writer:{name}' for name in ('Gone', 'Own'))
  log = reporter(tmp_path, gone, own)
  log.resume(0)
  for step in range(1, 6):
    log.record(step, values(step))
    time.sleep(0.05)
  log.close({'top1': 1.0})
  (line,) = given_up(capsys.readouterr().out)
  assert gone in line
  assert 'ConnectionError: no route; the run goes on' in line
  assert [row['step'] for row in from_jsonl(tmp_path)] == [1, 2, 3, 4, 5]
  assert [row['step'] for row in from_own(tmp_path)][-1] == 5
  assert given_up((tmp_path / 'log.txt').read_text())


def test_a_writer_that_hangs_holds_nothing_up(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(loggers, '_PATIENCE_S', 0.1)
  log = reporter(tmp_path, 'tests.runtime.own_writer:Slow')
  began = time.monotonic()
  log.resume(0)
  for step in range(1, 6):
    log.record(step, values(step))
  log.close()
  assert time.monotonic() - began < 5
  (line,) = given_up(capsys.readouterr().out)
  assert 'did not end within' in line
  assert len(from_jsonl(tmp_path)) == 5


def test_a_writer_that_is_too_far_behind_is_given_up(
  tmp_path, capsys, monkeypatch
):
  monkeypatch.setattr(loggers, '_MOST_CALLS', 4)
  log = reporter(tmp_path, 'tests.runtime.own_writer:Slow')
  log.resume(0)
  for step in range(1, 8):
    log.record(step, values(step))
  log.close()
  (line,) = given_up(capsys.readouterr().out)
  assert 'more than 4 calls behind' in line
  assert len(from_jsonl(tmp_path)) == 7


def test_tensorboard_on_a_full_disk_does_not_end_the_run(
  tmp_path, capsys, monkeypatch
):
  def full(self):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(writers.TensorBoard, 'flush', full)
  log = reporter(tmp_path, 'tensorboard')
  log.resume(0)
  log.record(1, values(1))
  log.record(2, values(2))
  log.close()
  (line,) = given_up(capsys.readouterr().out)
  assert 'No space left' in line
  assert len(from_jsonl(tmp_path)) == 2
