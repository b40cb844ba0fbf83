"""The turns of the table and its figures, without a GPU."""

import json
import signal
import sys
import threading
import time
import types

import pytest

from kd_jax import errors
from kd_jax.benchmark import cost, peer
from tests import children
from tests.benchmark.gpu.scripts import script


class Fake:
  """Takes turns of a millisecond, until it ends."""

  def __init__(self, turns):
    self.turns, self.closed = turns, False

  def turn(self, steps):
    if not self.turns:
      raise errors.UsageError('it ended with code 1')
    self.turns -= 1
    return cost.Turn(1.0 * steps)

  def kill(self):
    self.closed = True

  close = kill


def table(tmp_path, **options):
  (tmp_path / 'results').mkdir()
  given = {
    'results': str(tmp_path / 'results'), 'seconds': 100.0, 'repeats': 3,
    'steps': 2, 'lanes': 2, **options,
  }  # fmt: skip
  given['until'] = time.monotonic() + given['seconds']
  return script('table').Table(given)


def test_a_row_that_ends_in_its_turn_leaves_the_others_to_theirs(tmp_path):
  made = table(tmp_path)
  made.ready = {'whole': Fake(99), 'ends': Fake(2)}
  ending = made.ready['ends']
  made.take_turns()
  assert len(made.times['whole']) == 3
  assert made.left_out == {'ends': 'it ended with code 1'}
  assert ending.closed
  kept = json.loads((tmp_path / 'results' / 'table.json').read_text())
  assert kept['rounds'] == 3
  assert 'left out: ends: it ended with code 1' in kept['text']


def test_a_turn_of_a_slow_row_takes_fewer_steps(tmp_path):
  made = table(tmp_path, steps=256, repeats=1)
  slow, other = Fake(99), Fake(99)
  slow.about = {'ms': 400.0}  # a step, as it said when it was ready
  made.ready = {'slow': slow, 'other': other}
  assert (made.steps('slow'), made.steps('other')) == (12, 256)
  slow.turn = other.turn = lambda steps: cost.Turn(1e4)
  made.take_turns()  # and what the turns say counts more
  assert (made.steps('slow'), made.steps('other')) == (1, 1)


class Hangs(Fake):
  """Takes a turn that ends only when it is killed."""

  def __init__(self):
    super().__init__(99)
    self.killed = threading.Event()

  def turn(self, steps):
    if self.killed.wait(100):
      raise errors.UsageError('it ended with code -9')
    return super().turn(steps)

  def kill(self):
    self.killed.set()


def test_a_turn_that_hangs_costs_its_own_row_alone(tmp_path, monkeypatch):
  monkeypatch.setattr(script('table'), '_UNKNOWN_S', 0.2)
  made = table(tmp_path)
  made.ready = {'first': Fake(99), 'hangs': Hangs(), 'last': Fake(99)}
  made.take_turns()
  assert {name: len(taken) for name, taken in made.times.items()} == {
    'first': 3, 'last': 3
  }  # fmt: skip
  assert made.left_out == {'hangs': 'a turn of 2 steps took over 0 s'}


def test_the_row_at_work_stands_in_the_table_during_its_turn(tmp_path):
  made, seen = table(tmp_path, repeats=1), []
  path = tmp_path / 'results' / 'table.json'

  def turn(steps):
    seen.append(json.loads(path.read_text())['at_work'])
    return cost.Turn(1.0)

  made.ready = {'KD': Fake(9)}
  made.ready['KD'].turn = turn
  made.take_turns()
  assert seen == ['KD', 'KD']
  assert json.loads(path.read_text())['at_work'] == ''


def test_rows_that_are_late_are_ended_before_the_turns(tmp_path):
  made, peers = table(tmp_path, seconds=3.0), []

  def late():
    command = [sys.executable, '-c', 'import time; time.sleep(1000)']
    peers.append(None)
    return peer.Peer('late', command)

  before = signal.signal(signal.SIGTERM, peer._leave)  # as `main` sets one
  try:
    script('table').start_all(made, {'late': late})
  finally:
    signal.signal(signal.SIGTERM, before)
  assert peers
  assert made.left_out['late'].startswith('it was not ready in time: ')
  children.until(lambda: not peer._starting)
  # The fixture of all tests fails this one if its process still runs.


def test_a_table_without_time_for_turns_says_so(tmp_path):
  made = table(tmp_path, seconds=-1.0)
  made.ready['whole'] = Fake(99)
  made.left_out['late'] = 'it was not ready in time'
  made.take_turns()
  kept = json.loads((tmp_path / 'results' / 'table.json').read_text())
  assert kept['rows'] == []
  assert 'left out: late: it was not ready in time' in kept['text']


def test_a_row_that_is_not_ready_in_time_is_left_out(tmp_path):
  made = table(tmp_path, seconds=0.5)

  def slow():
    time.sleep(2.0)
    late.append(Fake(9))
    return late[0]

  def broken():
    raise errors.UsageError('it cannot run here')

  late = []
  waiting = {'quick': lambda: Fake(9), 'slow': slow, 'broken': broken}
  script('table').start_all(made, waiting)
  assert list(made.ready) == ['quick']
  assert made.left_out['slow'].startswith('it was not ready in time: 0 s')
  deadline = time.monotonic() + 100
  while not (late and late[0].closed) and time.monotonic() < deadline:
    time.sleep(0.05)
  assert late[0].closed


def test_a_turn_that_does_not_end_is_cut_off(tmp_path, monkeypatch):
  table_script, one = script('table'), Fake(9)
  monkeypatch.setattr(table_script, '_OVER_S', 0.2)
  monkeypatch.setattr(
    table_script.rows, 'makers', lambda _: {'KD': lambda: one}
  )
  monkeypatch.setattr(one, 'turn', lambda steps: time.sleep(60))
  options = table(tmp_path, seconds=0.5).options
  (tmp_path / 'options.json').write_text(json.dumps(options))
  with pytest.raises(SystemExit) as ended:
    table_script.main(str(tmp_path / 'options.json'))
  assert ended.value.code == 128 + signal.SIGALRM
  assert one.closed


def row(kind, ms, **facts):
  """A row that is ready, without its process."""
  one = object.__new__(kind)
  for name, value in facts.items():
    setattr(one, name, value)
  return one, [cost.Turn(float(ms))] * 3


def figures(tmp_path, theirs, products=True, more=0):
  """The table of KD at 2, PyTorch's at 5 and Tf-FD at 4 ms a step."""
  rows, made = script('rows'), table(tmp_path)
  costs = cost.Costs(4e9, None, None, None, None)
  ours = {
    'costs': costs, 'batch_size': 64, 'dtype': 'float32', 'count': 1,
    'ahead': 1,
    'compile_s': 1.0, 'chips': 1, 'peak_bytes': 9_000_000, 'sizes': (10, 0),
    'extra_params': 0, 'kept_params': 10,
  }  # fmt: skip
  about = {
    'compile_s': 3.0, 'dtype': 'float32', 'memory_bytes': None,
    'params': 10, 'extra_params': 0,
  }  # fmt: skip
  peer = {'label': 'eager', 'about': about, 'sizes': theirs}
  product = {'label': 'product', 'flops': 1e10, 'dtype': 'float32'}
  for name, (one, times) in {  # in the order in which they were ready
    'matrix product float32': row(rows.Product, 1.0, **product),
    'KD PyTorch eager': row(rows.Torch, 5.0, **peer),
    'Tf-FD': row(rows.Ours, 4.0, **ours, label='Tf-FD'),
    'KD': row(rows.Ours, 2.0, **ours, label='KD'),
  }.items():
    made.ready[name], made.times[name] = one, times
  if not products:
    del made.ready['matrix product float32']
  for name in ('matrix product float32', 'KD')[: 2 * more]:
    made.times[name] = made.times[name] + made.times[name][:1]
  made.write()
  return json.loads((tmp_path / 'results' / 'table.json').read_text())


def test_a_row_says_its_ratio_to_ours_and_its_share_of_the_peak(tmp_path):
  ours, theirs, other = figures(tmp_path, (10, 0))['rows']
  assert (ours['ms'], ours['share']['median']) == (2.0, 0.2)
  assert ours['flops_per_s'] == 2e12
  assert (theirs['config'], theirs['ratio']) == ('eager', 2.5)
  assert (other['config'], other['ratio']) == ('Tf-FD', 2.0)
  assert theirs['ratio_to'] == other['ratio_to'] == 'KD'


def test_the_turns_of_a_round_that_has_not_ended_count(tmp_path):
  found = figures(tmp_path, (10, 0), more=1)
  assert [len(row['all_ms']) for row in found['rows']] == [4, 3, 3]
  assert found['rounds'] == 3
  assert 'n=3 to 4 turns' in found['text']


def test_without_its_matrix_product_a_row_only_lacks_its_share(tmp_path):
  found = figures(tmp_path, (10, 0), products=False)
  ours, theirs, other = found['rows']
  assert 'share' not in ours
  assert (ours['flops_per_s'], theirs['ratio'], other['ratio']) == (
    2e12, 2.5, 2.0
  )  # fmt: skip
  assert '2e+03 G' in found['text']
  assert 'a large matrix product, not timed' in found['text']


def test_a_loop_of_pytorch_that_trains_another_network_is_left_out(tmp_path):
  found = figures(tmp_path, (11, 0))
  assert [each['config'] for each in found['rows']] == ['KD', 'Tf-FD']
  assert 'left out: KD PyTorch eager: it trains (11, 0)' in found['text']


OPTIONS = {
  'rows': '', 'student': 'resnet8', 'teacher': 'resnet8', 'image_size': 8,
  'batch_size': 4, 'images': 16, 'compile_mode': 'default',
}  # fmt: skip


def test_a_row_of_pytorch_brings_the_row_that_it_is_compared_with():
  rows = script('rows')
  assert rows.chosen({'rows': 'KD PyTorch compiled bf16'}) == [
    'KD bf16', 'KD PyTorch compiled bf16'
  ]  # fmt: skip
  with pytest.raises(errors.UsageError, match="unknown value of --rows: 'KDD'"):
    rows.chosen({'rows': 'KDD'})


def test_rows_of_several_seeds_are_asked_for_and_bring_the_row_of_one():
  rows = script('rows')
  assert not [n for n in rows.chosen({'rows': ''}) if '3' in n.split()]
  assert rows.chosen({'rows': 'Tf-FD 3 processes,KD 3 seeds'}) == [
    'KD', 'Tf-FD', 'Tf-FD 3 processes', 'KD 3 seeds'
  ]  # fmt: skip
  assert rows.given('KD 3 seeds', OPTIONS)['seeds'] == 3
  assert rows.given('Tf-FD 3 processes', OPTIONS)['seeds'] == 1


def test_processes_side_by_side_take_as_long_as_the_slowest(monkeypatch):
  rows = script('rows')
  monkeypatch.setattr(rows, 'multi_process_service', dict)
  closed, times = [], iter((2.0, 5.0, 3.0))
  costs = rows.cost.Costs(1e9, None, None, None, None)

  def lane(label, given, environment):
    return types.SimpleNamespace(
      about={}, dtype='float32', count=1, costs=costs, batch_size=4, chips=1,
      compile_s=1.0, peak_bytes=None, sizes=(1, 0), extra_params=0,
      kept_params=1, close=lambda: closed.append(label),
      turn=lambda steps: rows.cost.Turn(next(times)),
    )  # fmt: skip

  monkeypatch.setattr(rows, 'Ours', lane)
  three = rows.Beside('KD 3 processes', {}, 3)
  assert three.label == 'KD 3 processes, no MPS'
  assert (three.batch_size, three.costs.flops) == (12, 3e9)
  assert three.turn(7).ms == 5.0
  three.close()
  assert len(closed) == 3


def test_without_pytorch_our_rows_remain_and_one_line_says_so(
  monkeypatch, capsys
):
  rows = script('rows')
  monkeypatch.setattr(rows.importlib.util, 'find_spec', lambda name: None)
  found = rows.makers(OPTIONS)
  assert not [name for name in found if 'PyTorch' in name]
  assert {'KD', 'matrix product float32', 'matrix product bfloat16'} <= set(
    found
  )
  assert capsys.readouterr().out.count('PyTorch is not installed') == 1


def test_a_pattern_brings_all_rows_that_it_fits():
  rows = script('rows')
  assert rows.chosen({'rows': 'CRD*batch 512'}) == [
    'CRD batch 512', 'CRD bf16 batch 512', 'CRD PyTorch compiled batch 512',
    'CRD PyTorch compiled bf16 batch 512', 'CRD PyTorch eager batch 512',
    'CRD PyTorch DataLoader batch 512',
  ]  # fmt: skip
  assert rows.chosen({'rows': ''}) == list(rows.FIRST)
  with pytest.raises(errors.UsageError, match=r"of --rows: 'GKD\*'"):
    rows.chosen({'rows': 'KD,GKD*'})


def test_the_loops_of_pytorch_know_the_first_configuration():
  given = script('rows').torch_given('KD PyTorch compiled', OPTIONS)
  assert (given['method'], given['variant']) == ('kd', 'compiled')
  assert given['compile_mode'] == 'default'


@pytest.mark.drill
def test_the_loops_of_pytorch_know_all_configurations():
  rows = script('rows')
  first = {
    row['of']: n for n, row in reversed(rows.ROWS.items()) if 'of' in row
  }
  of_config = {rows.ROWS[of]['config']: n for of, n in first.items()}
  options = {**OPTIONS, 'images': 20000}  # CRD compares an image with many
  given = [rows.torch_given(name, options) for name in of_config.values()]
  methods = {'kd', 'fpd', 'ofd', 'ffsd', 'pics', 'crd', 'ce'}
  assert {each['method'] for each in given} == methods
