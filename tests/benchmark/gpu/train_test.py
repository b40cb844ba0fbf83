"""The training run that is stopped in time and kept in chunks."""

import errno
import json
import os
import sys
import time

from tests.benchmark.gpu.scripts import script

# Counts up in checkpoints/, from the newest one that is there.
COUNTS = """
import pathlib, shutil, signal, sys, time
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
run = pathlib.Path(sys.argv[1])
folder = run / 'checkpoints'
folder.mkdir(parents=True, exist_ok=True)
(run / 'config.json').write_text('{}')
step = max((int(p.name) for p in folder.iterdir()), default=0)
print('from step', step, flush=True)
while not stop:
  step += 1
  (folder / 'part').mkdir()
  (folder / 'part' / 'array').write_bytes(bytes(3000))
  (folder / 'part').rename(folder / str(step))
  (run / 'metrics.jsonl').write_text(str(step))
  if step > 2 and (folder / str(step - 2)).exists():
    shutil.rmtree(folder / str(step - 2))
  time.sleep(0.05)
sys.exit(75)
"""


def trained(tmp_path, monkeypatch, name, resume=None, counts=COUNTS, code=0):
  """Trains in the folder `name` for three seconds; returns results and log."""
  train, out = script('train'), tmp_path / name
  (out / 'results').mkdir(parents=True)
  (out / 'work').mkdir()
  monkeypatch.setattr(
    train,
    'arguments',
    lambda options, place: [sys.executable, '-c', counts, str(place / 'run')],
  )
  options = {
    'results': str(out / 'results'), 'work': str(out / 'work'),
    'resume': resume and str(resume), 'chunk_mb': 1, 'keep_s': 0.2,
    'until': time.monotonic() + 13.0, 'stop_s': 10.0,
  }  # fmt: skip
  (out / 'options.json').write_text(json.dumps(options))
  assert train.main(str(out / 'options.json')) == code
  log = (out / 'work' / 'train_main.log').read_text()
  return out / 'results' / 'train', log


def test_a_run_that_does_not_save_when_it_is_told_to_stop_has_failed(
  tmp_path, monkeypatch
):
  trained(
    tmp_path, monkeypatch, 'first', counts='import time; time.sleep(9)', code=1
  )


def test_a_run_that_is_finished_may_be_stopped_as_it_ends(
  tmp_path, monkeypatch, capsys
):
  ends = (
    'import pathlib, sys, time\n'
    'pathlib.Path(sys.argv[1]).mkdir()\n'
    '(pathlib.Path(sys.argv[1]) / "result.json").write_text('
    '\'{"top1": 71.5}\')\n'
    'time.sleep(9)'
  )
  results, _ = trained(tmp_path, monkeypatch, 'first', counts=ends)
  assert (results / 'result.json').exists()
  assert 'finished: 71.50% top-1' in capsys.readouterr().out


def test_an_npz_file_has_the_same_name_on_every_machine(tmp_path):
  train, names = script('train'), set()
  for machine in ('here', 'there'):
    place = tmp_path / machine / 'train'
    place.mkdir(parents=True)
    (tmp_path / machine / 'set.npz').write_text(machine)
    names.add(train.data_name(f'npz:{tmp_path / machine}/set.npz', place))
    assert (place / 'set.npz').read_text() == machine
  assert names == {'npz:set.npz'}


def newest(place):
  return max(int(p.name) for p in (place / 'run' / 'checkpoints').iterdir())


def test_a_run_goes_on_elsewhere_from_its_chunks(tmp_path, monkeypatch):
  results, log = trained(tmp_path, monkeypatch, 'first')
  assert log == 'from step 0\n'
  last = newest(tmp_path / 'first' / 'work' / 'train')
  assert last > 1
  assert (results / 'metrics.jsonl').read_text() == str(last)
  _, log = trained(tmp_path, monkeypatch, 'second', resume=results)
  assert log == f'from step {last}\n'


def test_a_checkpoint_that_cannot_be_kept_is_kept_at_the_next_try(
  tmp_path, monkeypatch, capsys
):
  train, whole = script('train'), script('chunks').write_tar
  run = tmp_path / 'run'
  (run / 'checkpoints' / '9').mkdir(parents=True)
  (run / 'config.json').write_text('')
  keeper = train.Keeper(tmp_path, tmp_path / 'kept', 1000)

  def full(*arguments):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(train.chunks, 'write_tar', full)
  assert not keeper.keep()
  assert capsys.readouterr().out.count('No space left on device') == 1
  monkeypatch.setattr(train.chunks, 'write_tar', whole)
  assert keeper.keep()
  assert (tmp_path / 'kept' / 'SHA256SUMS').exists()


def test_only_the_newest_whole_checkpoint_of_a_run_is_kept(tmp_path):
  run = tmp_path / 'run'
  for name in ('9', '10', '11.orbax-checkpoint-tmp'):
    (run / 'checkpoints' / name).mkdir(parents=True)
  for name in ('config.json', 'events.out', '.lock', 'log.txt.part'):
    (run / name).write_text('')
  found = script('train').members(tmp_path)
  assert set(found) == {'run/config.json', 'run/checkpoints/10'}
