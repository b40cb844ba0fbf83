import json
import pathlib
import sys

import kd_jax
from kd_jax.benchmark import throughput
from tests import children

ROOT = pathlib.Path(kd_jax.__file__).parent.parent


def run(*command):
  return children.run([sys.executable, *map(str, command)], cwd=ROOT)


def test_other_loaders_take_part_where_a_python_is_given():
  def labels(*given):
    return [loader.label for loader in throughput.loaders(*given)]

  assert labels([1], '', '', True) == [
    'kd_jax, 1 worker',
    'plain Pillow, 1 process',
  ]
  assert labels([0, 2], 'python-a', 'python-b', True) == [
    'kd_jax, 0 workers',
    'torchvision, 0 workers',
    'torchvision, uint8 tensors, 0 workers',
    'kd_jax, 2 workers',
    'torchvision, 2 workers',
    'torchvision, uint8 tensors, 2 workers',
    'tf.data, 2 threads',
    'plain Pillow, 1 process',
  ]
  assert labels([2], 'python-a', 'python-b', False) == ['kd_jax, 2 workers']
  policies = ('randaugment', 'trivialaugment')
  assert labels([1], 'python-a', 'python-b', True, policies, True) == [
    'kd_jax, randaugment, 1 worker',
    'kd_jax, trivialaugment, 1 worker',
    'kd_jax, fast, 1 worker',
    'torchvision, randaugment, 1 worker',
    'torchvision, uint8 tensors, randaugment, 1 worker',
    'plain Pillow, 1 process',
  ]


class Fake:
  """A loader of 10 ms a batch, on two cores."""

  turns = 0

  def ask(self, batches):
    self.turns += 1
    slow = 100 if self.turns == 1 else 1
    return {'seconds': 0.01 * batches * slow}

  def cpu_s(self):
    return 0.1 * self.turns


def test_the_first_turn_does_not_count():
  fast, slow = throughput.measure([Fake(), Fake()], 3, 5, 8)
  assert fast == slow
  assert [round(x) for x in fast.wall] == [800] * 3
  assert [round(x) for x in fast.cpu] == [400] * 3


def test_the_command_measures_made_files(tmp_path):
  made = run('benchmarks/make_jpegs.py', tmp_path / 'made', 16)
  assert made.stdout.startswith('32 files, 1')  # a hundred kB and some each
  again = run('benchmarks/make_jpegs.py', tmp_path / 'made', 16)
  assert 'is not empty' in again.stderr
  found = run(
    '-m',
    'kd_jax.benchmark.throughput',
    f'folder:{tmp_path / "made"}',
    '--image_size=32',
    '--workers=0',
    '--batch_size=4',
    '--batches=1',
    '--repeats=1',
    f'--torch_python={sys.executable}',
    f'--tf_python={sys.executable}',
  )
  assert found.returncode == 0, found.stderr
  rows = found.stdout.splitlines()
  assert any(row.startswith('kd_jax, 0 workers  ') for row in rows)
  assert any(row.startswith('plain Pillow, 1 process  ') for row in rows)


def test_a_loader_whose_framework_is_missing_is_left_out(tmp_path):
  blocks = "import sys; sys.modules['torch'] = None; sys.argv[1:] = [{!r}]; "
  given = {'folder': str(tmp_path), 'size': 8, 'batch': 2, 'workers': 0}
  code = (
    blocks.format(json.dumps(given | {'variant': 'pillow'}))
    + "sys.path.insert(0, 'benchmarks'); import turns, loader_torchvision; "
    + 'turns.main(loader_torchvision.make)'
  )
  assert 'torch' in json.loads(run('-c', code).stdout)['left_out']
