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
