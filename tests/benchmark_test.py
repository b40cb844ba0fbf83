"""The benchmark, on the smallest networks."""

import json

from kd_jax import benchmark


def test_it_times_configurations_side_by_side(tmp_path, capsys):
  out = tmp_path / 'figures.json'
  code = benchmark.main(
    [
      *('kd', 'pefd', '--student=resnet8', '--teacher=resnet8'),
      *('--image_size=8', '--classes=10', '--images=40', '--batch_size=8'),
      *('--repeats=2', f'--json={out}'),
    ]
  )
  assert code == 0
  text = capsys.readouterr().out
  assert 'ratio to kd' in text
  kd, pefd = json.loads(out.read_text())['rows']
  assert kd['ratio'] == kd['least'] == kd['most'] == 1
  assert kd['ms'] > 0
  assert kd['extra_params'] == 0
  assert pefd['extra_params'] == 3 * (64 * 64 + 64)
  assert pefd['kept_params'] == kd['kept_params']


def test_a_mistake_is_one_line(capsys):
  assert benchmark.main(['kdd']) == 2
  error = capsys.readouterr().err
  assert error.startswith('kd_jax: ')
  assert error.count('\n') == 1


def test_meshes_of_several_sizes_are_compared_for_one_batch(tmp_path):
  out = tmp_path / 'figures.json'
  code = benchmark.main(
    [
      *('kd', '--student=resnet8', '--teacher=resnet8', '--devices=1,4'),
      *('--image_size=8', '--classes=10', '--images=40', '--batch_size=8'),
      *('--repeats=1', f'--json={out}'),
    ]
  )
  assert code == 0
  one, four = json.loads(out.read_text())['rows']
  assert (one['config'], four['config']) == ('kd on 1', 'kd on 4')
  assert one['collective_bytes'] == 0
  # The gradients at least: 4 bytes for each parameter.
  assert four['collective_bytes'] >= 4 * four['kept_params']


def test_bytes_of_collectives_are_read_from_the_program():
  text = """
  %a = f32[2,3]{1,0} all-reduce(f32[2,3]{1,0} %x), channel_id=1
  %b = (bf16[4]{0}, s32[]) all-reduce-start(bf16[4] %y, s32[] %z)
  %c = f32[9]{0} add(f32[9]{0} %all-reduce.3, f32[9]{0} %v)
  %d = f32[8]{0} all-gather(f32[4]{0} %x), dimensions={0}
  """
  assert benchmark.collective_bytes(text) == 24 + 8 + 4 + 32
