"""The command that exports a run."""

import json

from flax import traverse_util
import numpy as np
import pytest

from kd_jax import errors, models
from kd_jax.cli import export
from kd_jax.export import state_dict
from kd_jax.models.pretrained import convert
from kd_jax.training import restore
from tests import finished


def test_a_run_is_exported_and_said_in_one_line(tmp_path, capsys):
  run, out = finished.places() / 'kd', tmp_path / 'out'
  assert export.main([str(run), str(out), '--with_test_set']) == 0
  said = capsys.readouterr()
  right = finished.correct(finished.result('kd'))
  assert f'{right} of 360 digits test images correct' in said.out
  assert sorted(p.name for p in out.iterdir()) == [
    'README.md',
    'forward.jax_export',
    'network.json',
    'predict.py',
    'test.npz',
    'weights.safetensors',
  ]
  facts = json.loads((out / 'network.json').read_text())
  assert facts['class_names'] == list('0123456789')
  assert facts['mean'] == [0.3053] * 3
  # A second time it is there already, and stays.
  assert export.main([str(run), str(out)]) == 2
  error = capsys.readouterr().err
  assert error.count('\n') == 1
  assert 'is there already' in error
  assert (out / 'test.npz').exists()


def test_the_weights_go_to_pytorch_and_come_back(tmp_path, capsys):
  run, out = finished.places() / 'kd', tmp_path / 'out'
  assert export.main([str(run), str(out), '--torch']) == 0
  said = capsys.readouterr().out.splitlines()[-1]
  assert said.endswith('SimKD, FFSD (models/resnet.py: ResNet)')
  network = models.make('resnet8', 10, widths=(4, 4, 8, 16))
  back = convert.load(network, out / state_dict.FILE)
  want = restore.load(run).weights
  names = traverse_util.flatten_dict({'student': back}, sep='/')
  assert names.keys() == want.keys()
  for name, value in names.items():
    np.testing.assert_array_equal(value, want[name])


@pytest.mark.parametrize(
  ('name', 'arguments', 'said'),
  [
    ('pics', ['--torch'], 'no class of PyTorch is known that does'),
    ('kd', ['--torch', '--layout', 'keras'], "--layout='keras': ResNet has"),
    ('kd', ['--layout', 'timm'], '--layout is for --torch'),
  ],
)
def test_what_pytorch_has_no_names_for_is_one_line(
  name, arguments, said, tmp_path, capsys
):
  run = finished.places() / f'{name}_out'
  assert export.main([str(run), str(tmp_path / 'out'), *arguments]) == 2
  error = capsys.readouterr().err
  assert said in error
  assert error.count('\n') == 1
  assert not list(tmp_path.iterdir())


def test_of_what_cannot_be_exported_nothing_is_left(tmp_path, capsys):
  (tmp_path / 'notes').write_text('no run')
  for run in ('notes', 'missing'):
    assert export.main([str(tmp_path / run), str(tmp_path / 'out')]) == 2
    assert capsys.readouterr().err.count('\n') == 1
  assert [p.name for p in tmp_path.iterdir()] == ['notes']


def test_a_forward_pass_that_differs_is_not_exported():
  found = restore.load(finished.places() / 'kd')
  other = {k: 1.1 * v for k, v in found.weights.items()}
  export.check(found, found)
  with pytest.raises(errors.RunError, match='differs from the network'):
    export.check(found, found._replace(weights=other))
