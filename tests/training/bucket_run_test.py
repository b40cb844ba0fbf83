"""Whole runs in a bucket: killed, resumed, seen from elsewhere."""

import contextlib
import http.client
import json
import signal

import fsspec
import pytest
from tensorboardX.proto import event_pb2

from kd_jax.runtime import run_dir, writers
from tests.cli import train_test
from tests.runtime import bucket
from tests.training import end_to_end_test
from tests.training.end_to_end_test import (
  SMALL,
  assert_same_run,
  finish,
  signalled,
)

# Saved after each epoch, not after each step: a bucket is slower.
RARELY = '--config.checkpoint_every=1.0'

pytest.importorskip('gcsfs', reason='run folders in buckets need gcsfs')


@pytest.fixture
def server(monkeypatch):
  with bucket.Server() as found:
    monkeypatch.setenv('STORAGE_EMULATOR_HOST', found.url)
    monkeypatch.setenv('TENSORSTORE_GCS_HTTP_URL', found.url)
    monkeypatch.setenv('GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT', 'false')
    fsspec.filesystem('gcs').clear_instance_cache()  # of an older server
    yield found


def begin(cache, **options):
  run = '--workdir=gs://bucket/run'
  return train_test.start(
    *SMALL, run, RARELY, KD_JAX_CACHE=str(cache), **options
  )


def download(server, folder):
  for (_, key), (_, content) in server.objects.items():
    path = folder / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def text(server, name):
  return server.objects.get(('bucket', f'run/{name}'), (0, b''))[1].decode()


def events(content):
  """The steps and tags of a TensorBoard file."""
  found = set()
  while content:
    size = int.from_bytes(content[:8], 'little')
    event = event_pb2.Event.FromString(content[12 : 12 + size])
    found |= {(event.step, value.tag) for value in event.summary.value}
    content = content[12 + size + 4 :]
  return found


@pytest.mark.drill
def test_a_run_in_a_bucket_is_killed_and_ends_as_one_on_a_disk(
  server, tmp_path
):
  finish(end_to_end_test.begin(tmp_path, RARELY))
  more = signalled(tmp_path, 'SIGKILL', 'run/dispatch', 17)  # epoch 4
  process = begin(tmp_path / 'cache', **more)  # the same teacher
  finish(process, code=-signal.SIGKILL)
  assert text(server, 'metrics.jsonl').count('\n') == 3
  # Its lock would expire in a minute: see tests/runtime/locks_test.py.
  assert json.loads(text(server, '.lock'))['pid'] == process.pid
  del server.objects['bucket', 'run/.lock']
  said = finish(begin(tmp_path / 'cache'))
  assert 'resuming at step' in said

  (tmp_path / 'there').mkdir()
  download(server, tmp_path / 'there')
  assert_same_run(tmp_path, tmp_path / 'there')
  run = tmp_path / 'there/run'
  own, other = (
    [json.loads(line)['step'] for line in path.read_text().splitlines()]
    for path in (run / 'metrics.jsonl', tmp_path / 'run/metrics.jsonl')
  )
  assert own == other
  assert (run / 'curves.png').read_bytes().startswith(b'\x89PNG')
  assert 'resuming at step' in (run / 'log.txt').read_text()
  boards = [events(path.read_bytes()) for path in run.glob('events.*')]
  assert len(boards) == 2
  assert {step for step, _ in set().union(*boards)} == set(own)
  assert not (run / '.lock').exists()
  said = finish(begin(tmp_path / 'cache'))
  assert 'student, kd' in said
  assert 'resuming' not in said


def test_what_another_machine_writes_into_a_listed_folder_is_seen(server):
  folder = run_dir.Folder('gs://bucket/run')
  folder.write('config.json', {})
  assert [path.name for path in folder.path.iterdir()] == ['config.json']
  server.change(('bucket', 'run/result.json'), b'{"top1": 1}', {})
  assert folder.read('result.json') == {'top1': 1}


def test_a_server_that_ended_answers_on_no_connection():
  def answer(client):
    client.request('GET', '/storage/v1/b/bucket')
    return client.getresponse().read()

  with bucket.Server() as server:
    client = http.client.HTTPConnection('127.0.0.1', server.server_port)
    assert answer(client)
  with (
    contextlib.closing(client),
    pytest.raises((ConnectionError, http.client.HTTPException)),
  ):
    answer(client)


def test_records_in_a_bucket_are_appended_and_truncated(server):
  folder = run_dir.Folder('gs://bucket/run')
  records = run_dir.Records(folder)
  assert records.read() == []
  for step in (1, 2, 3):
    records.append({'step': step})
  assert [record['step'] for record in records.read()] == [1, 2, 3]
  again = run_dir.Records(run_dir.Folder('gs://bucket/run'))  # after a kill
  again.truncate(2)
  again.append({'step': 5})
  assert [record['step'] for record in again.read()] == [1, 2, 5]
  assert set(server.objects) == {('bucket', 'run/metrics.jsonl')}


def test_records_whose_writing_failed_are_there_once_after_the_close(server):
  writer, folder = writers.Jsonl(), run_dir.Folder('gs://bucket/run')
  writer.open(writers.About(folder), 0, [])
  writer.scalars(1, {'x': 1.0})
  server.broken = True
  with pytest.raises(Exception, match='the server is broken'):
    writer.flush()
  server.broken = False
  writer.close(None)
  assert text(server, 'metrics.jsonl') == '{"step": 1, "x": 1.0}\n'
