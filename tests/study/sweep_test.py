"""A grid of runs: what is refused, stopped, gone on with, and failed."""

import json

import pytest

from kd_jax import config as config_lib
from kd_jax import errors
from kd_jax.cli import app, starting
from kd_jax.distill import build
from kd_jax.runtime import run_dir
from kd_jax.study import finished, grid, sweep
from kd_jax.training import picture
from kd_jax.training import run as run_lib
from tests.study import made

# A run of 10 steps, with a teacher of 5.
SMALL = (
  '--config=kd', '--config.data.train_size=100', '--config.batch_size=20',
  '--config.student.name=tests.study.network:Small',
  '--config.teacher.name=tests.study.network:Small',
  '--config.epochs=2', '--config.teacher.recipe.epochs=1',
  '--config.teacher.recipe.batch_size=20',
  '--config.teacher.expected_top1=0', '--config.mesh.data=1',
)  # fmt: skip
SET = '--set=config.method_args.temperature=1,4'
ROWS = [f'kd method_args.temperature={value}' for value in ('1.0', '4.0')]


@pytest.fixture(autouse=True)
def _within(tmp_path, monkeypatch):
  """Runs a sweep within this process, with a cache of its own."""
  monkeypatch.setenv('KD_JAX_CACHE', str(tmp_path / 'cache'))
  monkeypatch.setattr(starting, 'before_jax_starts', lambda **_: None)
  monkeypatch.setattr(starting.signal, 'signal', lambda *_: None)
  monkeypatch.setattr(picture, 'curves', lambda *_: None)  # it takes a second


@pytest.mark.parametrize(
  ('text', 'values'),
  [
    ('a=1,2', ['1', '2']),
    ('config.a.b=x', ['x']),
    ('a=(4,4),(8, 8)', ['(4,4)', '(8, 8)']),
    ("a={'b': [1,2]},{'b': 3}", ["{'b': [1,2]}", "{'b': 3}"]),
    ("a='b,c',\"d\",'',e=f", ['b,c', 'd', '', 'e=f']),
    ("a=('b,)',),2", ["('b,)',)", '2']),
  ],
)
def test_values_are_split_outside_of_brackets_and_quotes(text, values):
  (axis,) = grid.axes([text])
  assert list(axis.values) == values
  assert axis.key in ('a', 'a.b')


MISTAKES = {
  '--set=a': 'give a key and its values',
  '--set=weights.kd=1,,2': 'a value is missing',
  '--set=weights.kd=(1,2': ') is missing',
  '--set=weights.kd=1),2': "')' closes no bracket",
  '--set=seed=1,2': 'give --seeds 1,2',
  '--set=weights.kd=1 --set=config.weights.kd=2': 'weights.kd is set twice',
  '--set=method_args.temprature=1,2': "did you mean 'temperature'",
  '--set=weights.kd=1,many': '--set weights.kd=many: could not convert',
  '--set=method=kd,kdd': "--set method=kdd: unknown method 'kdd'; did you mean",
  '--set=data.area=(0.1,1.0),(2,3)': '--set data.area=(2,3): config.data.area=',
  '--set=weights.kd=0.5,0.50': 'is the same run as --set weights.kd=0.5',
  "--set=student.init='',gone": 'gone is not there',
  '--set=data.workers=1,2': 'only keys that change the result',
  '--set=teacher.recipe.optimizer.learning_rate.kind=step,stp': (
    "did you mean 'step'"
  ),
  f'{SET} --reference=kd:1': "unknown --reference 'kd:1'",
  f'{SET} --seeds=0,0': 'give each seed once',
  f'{SET} --seeds=0,x': 'give whole numbers',
  f'{SET} --seeds=0,-1': 'give whole numbers',
  f'{SET} stray': "unexpected argument 'stray'",
  f'{SET} --config.epoch=1': "did you mean 'epochs'",
  '--set=epochs=1,2': '--config.epochs is given too',
}


@pytest.mark.parametrize('arguments', MISTAKES)
def test_a_mistake_is_one_line_before_anything_trains(
  tmp_path, capsys, arguments
):
  out = f'--workdir={tmp_path / "out"}'
  assert app.main(['sweep', *SMALL, out, *arguments.split()]) == 2
  said = capsys.readouterr()
  assert MISTAKES[arguments] in said.err
  assert said.err.count('\n') == 1
  assert not said.out
  assert not (tmp_path / 'out').exists()
  assert not (tmp_path / 'cache').exists()


@pytest.mark.drill
def test_a_sweep_that_is_stopped_goes_on_to_the_same_table(
  tmp_path, monkeypatch, capsys
):
  def start(folder, stop_at=None):
    calls = iter(range(1000))
    monkeypatch.setattr(
      starting.Stop, '__call__', lambda self: next(calls) == stop_at
    )
    more = ('--seeds=0,1', '--config.baseline=train', f'--workdir={folder}')
    code = app.main(['sweep', *SMALL, SET, *more])
    return code, capsys.readouterr()

  code, said = start(tmp_path / 'whole')
  assert code == 0, said.err
  assert f'run 3 of 4: {ROWS[0]}, seed 1\n' in said.out
  cached = [path.name for path in (tmp_path / 'cache').glob('networks-*/*')]
  assert sum(name.startswith('teacher-') for name in cached) == 1
  assert sum(name.startswith('alone-') for name in cached) == 2
  table = (tmp_path / 'whole/sweep.md').read_text()
  assert table in said.out

  code, said = start(tmp_path / 'parts', stop_at=15)
  assert code == 75
  assert 'run 2 of 4: saved at step' in said.err
  left = finished.find([str(tmp_path / 'parts')])
  assert [run.seed for run in left.runs] == [0]
  assert 'temperature=4.0/seed0: unfinished' in left.left_out[0]
  code, said = start(tmp_path / 'parts')
  assert code == 0
  assert f'run 1 of 4: {ROWS[0]}, seed 0: finished before' in said.out
  assert 'resuming at step' in said.out
  assert (tmp_path / 'parts/sweep.md').read_text() == table

  code, said = start(tmp_path / 'parts')
  assert said.out.count('finished before') == 4
  assert (
    app.main(['compare', str(tmp_path / 'parts'), '--reference', ROWS[0]]) == 0
  )
  assert capsys.readouterr().out == table
  figures = json.loads((tmp_path / 'parts/sweep.json').read_text())
  assert [row['label'] for row in figures['rows']] == ROWS
  assert figures['reference'] == ROWS[0]
  assert figures['set'] == {'method_args.temperature': ['1', '4']}
  for row in figures['rows']:
    assert row['seeds'] == row['from_alone']['seeds'] == [0, 1]


def test_a_run_that_fails_is_named_and_the_others_go_on(
  tmp_path, monkeypatch, capsys
):
  trained = []

  def run(config, folder, label, *, should_stop):
    trained.append((config.method_args.temperature, config.seed))
    if trained[-1] in fails:
      raise errors.RunError('step 7: loss/kd is nan')
    facts = build.open_source(config).info.identity()
    folder.claim(config_lib.plain(config), facts)
    top1 = 90.0 + config.seed
    folder.write('result.json', made.result(config, top1))
    return {'top1': top1}, None

  monkeypatch.setattr(sweep.trained, 'run', run)
  monkeypatch.setattr(run_lib, 'provenance', dict)
  fails = [(1.0, 0), (1.0, 1)]
  more = (SET, '--seeds=0,1', '--config.baseline=off')
  monkeypatch.chdir(tmp_path)  # it takes the folder of its own
  assert app.main(['sweep', *SMALL, *more]) == 1
  assert trained == [(1.0, 0), (4.0, 0), (1.0, 1), (4.0, 1)]
  said = capsys.readouterr()
  assert 'run 3 of 4 failed: step 7: loss/kd is nan' in said.out
  assert (
    f'| `{ROWS[1]}` | tests.study.network:Small (8-8-16-32) | 90.50 |'
    in said.out
  )
  assert f'Left out: {ROWS[0]}, seed 1: failed: step 7' in said.out
  assert said.err.count('\n') == 1
  assert f'2 of 4 runs failed: {ROWS[0]}, seed 0; {ROWS[0]}, seed 1' in said.err

  # More values and seeds go on in the same folder.
  fails, trained[:] = [], []
  more = (f'{SET},2', '--seeds=0,1,2', '--config.baseline=off')
  assert app.main(['sweep', *SMALL, *more]) == 0
  assert trained == [
    (1.0, 0), (2.0, 0), (1.0, 1), (2.0, 1), (1.0, 2), (4.0, 2), (2.0, 2)
  ]  # fmt: skip
  out = capsys.readouterr().out
  assert f'run 2 of 9: {ROWS[1]}, seed 0: finished before' in out
  assert len([*(tmp_path / 'runs').iterdir()]) == 1


def test_a_run_that_cannot_be_read_is_left_out_with_its_reason(tmp_path):
  config = config_lib.digits()
  task = sweep.Task('kd', config, run_dir.Folder(tmp_path / 'run'), 1)
  (tmp_path / 'run').mkdir()
  (tmp_path / 'run/config.json').write_text(json.dumps({'epochs': 1}))
  planned = sweep.Plan([task], [], 'kd', run_dir.Folder(tmp_path))
  with pytest.raises(errors.RunError, match='finished: kd, seed 0: '):
    sweep.report(planned, {})
