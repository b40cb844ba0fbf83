"""The benchmark, on the smallest networks."""

import functools
import importlib.util
import json
import pathlib
import sys
import types

import jax
import jax.numpy as jnp
import pytest

from kd_jax import benchmark, errors
from kd_jax.benchmark import ahead, case, chips, cost, pairing, peers, turns
from kd_jax.distill import build
from tests import children
from tests.benchmark import compilers

TINY = (
  *('--student=resnet8', '--teacher=resnet8', '--image_size=8'),
  *('--classes=10', '--batch_size=8', '--repeats=2'),
)


def figures(tmp_path, *argv):
  """The JSON of a run of the benchmark."""
  out = tmp_path / 'figures.json'
  assert benchmark.main([*argv, *TINY, f'--json={out}']) == 0
  return json.loads(out.read_text())


def test_it_times_configurations_side_by_side(tmp_path, capsys):
  found = figures(tmp_path, 'kd', 'pefd', '--images=40', '--breakdown')
  text = capsys.readouterr().out
  assert 'time to kd' in text
  kd, pefd = found['rows']
  assert kd['ratio'] == kd['least'] == kd['most'] == 1
  assert len(kd['all_ms']) == 2
  rate = kd['images_per_s']
  assert 0 < rate['least'] <= rate['median'] <= rate['most']
  assert kd['extra_params'] == 0
  assert pefd['extra_params'] == 3 * (64 * 64 + 64)
  assert pefd['kept_params'] == kd['kept_params']
  # The student's forward and backward and the teacher's forward at least:
  # resnet8's 306 k FLOPs an image are of half the width (README).
  assert kd['flops'] > 8 * 4 * 306e3
  assert kd['share']['median'] > 0
  assert {'augmentation', 'teacher, forward', 'update'} <= set(kd['pieces'])
  assert found['versions']['jax']


def test_cached_logits_spare_the_teachers_forward_pass(tmp_path):
  file = tmp_path / 'cached.py'
  file.write_text(
    'from kd_jax import config\n'
    'def get_config(_=None):\n'
    "  made = config.pair('resnet8', 'resnet8')\n"
    "  made.method, made.weights = 'kd', {'ce': 1.0, 'kd': 1.0}\n"
    '  made.data.crop_padding = 0\n'
    '  made.teacher.cache_logits = True\n'
    '  return made\n'
  )
  kd, cached = figures(tmp_path, 'kd', str(file), '--images=40', '--repeats=1')[
    'rows'
  ]
  # Of the same network: one forward pass of four, a gradient being two.
  spared = kd['flops'] - cached['flops']
  assert spared == pytest.approx(kd['flops'] / 4, rel=0.1)


def test_memory_grows_with_the_images_that_lie_on_the_device(tmp_path):
  rows = figures(
    tmp_path, 'ce', '--images=40,400', '--steps_per_dispatch=2', '--repeats=1'
  )['rows']
  assert [row['config'] for row in rows] == ['ce images=40', 'ce images=400']
  # 8x8 pixels of 3 bytes, and a label of 4.
  more = rows[1]['memory_bytes'] - rows[0]['memory_bytes']
  assert more == pytest.approx(360 * (8 * 8 * 3 + 4), rel=0.01)
  assert [row['steps_per_dispatch'] for row in rows] == [2, 2]


@pytest.mark.parametrize(
  ('argv', 'told'),
  [
    (('kdd',), 'kdd'),
    (('kd', '--batch_size=8;9'), '--batch_size'),
    (('kd', '--images=4', '--batch_size=8'), '--images=4'),
    (('kd', '--image_size=224', '--images=99999'), 'device_mb'),
    (('kd', '--dtype=float64'), 'float64'),
  ],
)
def test_a_mistake_is_one_line(capsys, argv, told):
  assert benchmark.main(argv) == 2
  error = capsys.readouterr().err
  assert error.startswith('kd_jax: ')
  assert error.count('\n') == 1
  assert told in error


def test_meshes_of_several_sizes_are_compared_for_one_batch(tmp_path):
  one, four = figures(
    tmp_path, 'kd', '--devices=1,4', '--images=40', '--repeats=1'
  )['rows']
  assert (one['config'], four['config']) == ('kd devices=1', 'kd devices=4')
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
  assert cost.collective_bytes(text) == 24 + 8 + 4 + 32


def test_comparing_without_pytorch_says_what_to_install(capsys, monkeypatch):
  find = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util, 'find_spec', lambda n: None if n == 'torch' else find(n)
  )
  assert benchmark.main(['kd', *TINY, '--images=40', '--compare']) == 2
  assert 'pip install torch' in capsys.readouterr().err


def test_what_the_peers_do_not_train_is_refused(capsys, monkeypatch):
  monkeypatch.setattr(peers, 'check', lambda: None)  # with PyTorch or without
  assert benchmark.main(['pefd', *TINY, '--images=40', '--compare']) == 2
  error = capsys.readouterr().err
  assert 'do not train pefd' in error
  assert 'crd, ffsd, fpd, kd, ofd, pics' in error


@pytest.mark.parametrize(
  ('name', 'path', 'value', 'told'),
  [
    ('kd', 'method_args.standardize', True, 'they know temperature'),
    ('fpd', 'method_args.version', 'B', 'they know se_reduction, taps'),
    (
      'kd',
      'student.args.batch_norm',
      'batch',
      'they know dropout, stem',
    ),
    ('kd', 'optimizer.name', 'adamw', 'they know adam, sgd'),
    ('kd', 'optimizer.clip_norm', 1.0, 'they have 0.0'),
  ],
)
def test_what_the_peers_do_not_know_is_named(name, path, value, told):
  wanted = case.Wanted('resnet8', None, None, 8, 10, 8, 1, 40, 1)
  config = case.configured(name, wanted)
  *groups, last = path.split('.')
  functools.reduce(getattr, groups, config)[last] = value
  exp = build.phases_of(config, {'num_classes': 10}, 5)[0].exp
  with pytest.raises(errors.UsageError, match=f'config.{path}=.*{told}'):
    pairing.arguments(config, exp, wanted, name)


def test_arguments_of_a_rules_optimizer_are_not_known_to_the_peers():
  wanted = case.Wanted('resnet8', None, None, 8, 10, 8, 1, 40, 1)
  config = case.configured('kd', wanted)
  config.optimizer.rules = (('bias', {'name': 'adam', 'args': {'b1': 0.8}}),)
  exp = build.phases_of(config, {'num_classes': 10}, 5)[0].exp
  with pytest.raises(errors.UsageError, match=r"optimizer\.args={'b1': 0\.8}"):
    pairing.arguments(config, exp, wanted, 'kd')


def test_a_peers_ratio_is_to_the_configuration_that_it_trains():
  first, second = (
    types.SimpleNamespace(label=label, batch_size=8) for label in ('kd', 'fpd')
  )
  peer = types.SimpleNamespace(
    label='PyTorch eager, fpd', ours=second, about={'extra_params': 7}
  )
  times = {
    id(one): [cost.Turn(ms)] for one, ms in ((first, 1), (second, 4), (peer, 8))
  }
  row = turns.peer_row(peer, times)
  assert (row['ratio'], row['ratio_to'], row['extra_params']) == (2, 'fpd', 7)


@pytest.mark.skipif(
  importlib.util.find_spec('torch') is None, reason='PyTorch is not installed'
)
def test_peers_of_each_configuration_take_turns(tmp_path, capsys):
  rows = figures(
    *(tmp_path, 'kd', 'crd', '--images=200'),
    *('--compare', '--peers=dataloader,eager'),
  )['rows']
  assert "PyTorch's to its own" in capsys.readouterr().out
  ours, found = rows[:2], rows[2:]
  assert [peer['config'] for peer in found] == [
    f'PyTorch {variant}, {name}'
    for name in ('kd', 'crd')
    for variant in ('dataloader', 'eager')
  ]
  for peer, own in zip(found, (ours[0],) * 2 + (ours[1],) * 2, strict=True):
    assert peer['params'] == own['kept_params']
    assert peer['extra_params'] == own['extra_params']
    assert peer['ratio_to'] == own['config']
    assert peer['ms'] > 0


def test_moved_bytes_are_xlas_where_it_counts_them():
  def function(x, y):
    return jnp.tanh(x @ y), x.sum(axis=0)

  shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((40, 30), (30, 20))]
  compiled = jax.jit(function).lower(*shapes).compile()
  program = compiled.as_text()
  xlas = compiled.cost_analysis()['bytes accessed']
  assert cost.moved_bytes(program) == pytest.approx(xlas, rel=0.1)
  assert 2 <= cost.operations(program) <= 6


def test_a_loop_counts_as_often_as_it_runs():
  program = """HloModule loop

%body (given: (s32[], f32[100])) -> (s32[], f32[100]) {
  %given = (s32[], f32[100]{0}) parameter(0)
  %i = s32[] get-tuple-element(%given), index=0
  %x = f32[100]{0} get-tuple-element(%given), index=1
  %next = s32[] fusion(%i), kind=kLoop, calls=%added
  %half = f32[100]{0} fusion(%x), kind=kLoop, calls=%halved
  ROOT %both = (s32[], f32[100]{0}) tuple(%next, %half)
}

ENTRY %main (x: f32[100]) -> f32[100] {
  %x.1 = f32[100]{0} parameter(0)
  %zero = s32[] constant(0)
  %first = (s32[], f32[100]{0}) tuple(%zero, %x.1)
  %loop = (s32[], f32[100]{0}) while(%first), condition=%less, body=%body, \
backend_config={"known_trip_count":{"n":"7"}}
  %out = f32[100]{0} get-tuple-element(%loop), index=1
  ROOT %double = f32[100]{0} fusion(%out), kind=kLoop, calls=%doubled
}
"""
  assert cost.operations(program) == 7 * 2 + 1
  assert cost.moved_bytes(program) == 7 * (8 + 800) + 800


def test_where_xla_has_no_costs_bytes_are_those_of_the_text():
  traced = jax.jit(lambda x: 2 * x + 1).trace(jnp.zeros((8, 4)))
  compiled = traced.lower().compile()

  class Uncounted:
    as_text, memory_analysis = compiled.as_text, compiled.memory_analysis

    def cost_analysis(self):
      return None

  found = cost.of(traced, Uncounted())
  assert found.compiled_bytes == 2 * 8 * 4 * 4
  assert found.memory_bytes == cost.of(traced, compiled).memory_bytes


@pytest.mark.parametrize(
  ('argv', 'told'),
  [
    (('kd', '--chips=h1000'), 'h1000'),
    (('kd', '--chips=v5e:2x2'), "pip install 'kd_jax[tpu]'"),
    (('kd', '--chips=h100'), "pip install 'kd_jax[cuda13]'"),
  ],
)
def test_a_chip_that_cannot_be_compiled_for_is_one_line(
  argv, told, capsys, monkeypatch
):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  monkeypatch.setattr(chips, 'prepare', lambda: None)  # the session's own stay
  assert ahead.main(argv) == 2
  assert told in capsys.readouterr().err


@pytest.mark.parametrize(
  ('place', 'count'),
  [compilers.param('h100', 1), compilers.param('v5e:2x2', 4)],
)
def test_a_step_is_compiled_for_chips_that_are_not_there(
  tmp_path, place, count
):
  out = tmp_path / 'ahead.json'
  command = [
    *(sys.executable, '-m', 'kd_jax.benchmark.ahead', 'kd'),
    *('--student=resnet8', '--teacher=resnet8', '--image_size=8'),
    *('--batch_size=64', '--images=640', f'--chips={place}', f'--json={out}'),
  ]
  children.run(command, check=True)
  (found,) = json.loads(out.read_text())['rows']
  assert found['count'] == count
  assert found['fits']
  # All parameters and BatchNorm's sums, where there is more than one chip.
  assert (found['collective_bytes'] > 4 * 78_000) == (count > 1)
  images = 640 * 8 * 8 * 3
  assert found['memory_bytes'] > images
  assert found['bytes'] > images / 10
  assert 50 < found['operations'] < 2000


@pytest.mark.parametrize('place', [compilers.param('h100')])
def test_with_the_teacher_ahead_a_chip_has_less_to_do(tmp_path, place):
  out, rows = tmp_path / 'ahead.json', []
  for count in (1, 4):
    command = [
      *(sys.executable, '-m', 'kd_jax.benchmark.ahead', 'kd'),
      *('--student=resnet8', '--teacher=resnet20', '--image_size=8'),
      *('--batch_size=64', '--images=640', f'--chips={place}'),
      *(f'--teacher_ahead={count}', f'--json={out}'),
    ]
    children.run(command, check=True)
    rows += json.loads(out.read_text())['rows']
  alone, ahead_of = rows
  assert (alone['ahead'], ahead_of['ahead']) == (1, 4)
  assert alone['flops'] == ahead_of['flops']
  # The teacher has 20 convolutions: their kernels run once in four steps.
  assert ahead_of['operations'] < alone['operations'] - 10
  assert ahead_of['bytes'] < 1.1 * alone['bytes']


def test_the_table_beside_pytorch_is_of_the_figures_in_its_folder(tmp_path):
  def figure(name, median, **more):
    spread = {'median': median, 'least': median / 2, 'most': 2 * median}
    return {'config': name, 'ratio': median, **spread, **more}

  about = {
    'arguments': {'repeats': 3},
    'hardware': '1 x cpu',
    'host': 'x86_64',
    'versions': {'jax': '0.1'},
  }
  for number, method in enumerate(('kd', 'fpd'), 1):
    ours = figure(
      method,
      1.0,
      images_per_s={'median': 30.0 * number, 'least': 20.0, 'most': 40.0},
      share={'median': 0.5},
      memory_bytes=420e6,
      flops=189e9,
      peak={'float32': {'least': 99e9, 'most': 131e9 * number}},
    )
    rows = [ours, figure(f'PyTorch eager, {method}', 0.25 * number)]
    path = tmp_path / f'r32x4_r8x4_64_{method}.json'
    path.write_text(json.dumps({'rows': rows, **about}))
  script = (
    pathlib.Path(__file__).parent.parent.parent / 'benchmarks' / 'table.py'
  )
  command = [
    *(sys.executable, str(script), str(tmp_path), '--methods=kd,fpd'),
    '--only=r32x4_r8x4_64',
  ]
  told = children.run(command, check=True)
  assert (
    '| FPD | 60 (20-40) | left out | 0.50 (0.25-1.00) | left out | left out '
    '| 50% | 420 MB | 189 G |\n'
  ) in told.stdout
  assert (
    'n=3 turns or more; 1 x cpu (x86_64); jax 0.1; peak 99-262' in told.stdout
  )
