"""Imitates a backend without cost figures, and runs every command under it.

JAX's CUDA plugin answers None where the CPU backend tells what a program costs.
Here each such question is answered in one of the ways that a plugin may choose:

  silent    None, or NotImplementedError
  partial   dictionaries without the requested keys

`python -m tests.cli.silent_backend KIND FOLDER` trains, evaluates, exports,
predicts, compares, lists and times in one process, and prints a line of JSON
for each command: its name and exit code.
"""

import json
import pathlib
import runpy
import sys

import jax
from PIL import Image

KINDS = ('silent', 'partial')


def _unimplemented(*_):
  raise NotImplementedError('not implemented on this platform')


def install(kind, patch=setattr):
  """Replaces what JAX reports about programs and devices.

  Args:
    kind: One of `KINDS`.
    patch: `setattr`, or pytest's `monkeypatch.setattr`.
  """
  device = type(jax.devices()[0])
  lowered, compiled = jax.stages.Lowered, jax.stages.Compiled
  none = lambda self: None  # noqa: E731
  patch(lowered, 'cost_analysis', none)
  patch(lowered, 'as_text', _unimplemented)
  if kind == 'silent':
    patch(compiled, 'cost_analysis', none)
    patch(compiled, 'memory_analysis', _unimplemented)
    patch(compiled, 'as_text', _unimplemented)
    patch(device, 'memory_stats', none)
  else:
    patch(compiled, 'cost_analysis', lambda self: {'utilization': 1.0})
    patch(compiled, 'memory_analysis', none)
    patch(compiled, 'as_text', none)
    patch(device, 'memory_stats', lambda self: {'num_allocs': 3})


SMALL = (
  '--config.student.args.widths=(4,4,8,16)',
  '--config.teacher.name=resnet8',
  '--config.teacher.args.widths=(4,8,8,16)',
  '--config.epochs=2',
  '--config.data.train_size=40',
  '--config.batch_size=20',
  '--config.steps_per_dispatch=2',
  '--config.teacher.recipe.epochs=1',
  '--config.teacher.expected_top1=0.0',
  '--config.mesh.data=1',
)


def commands(folder):
  """Returns the name and arguments of every command, in a possible order."""
  runs, out, image = folder / 'runs', folder / 'out', folder / 'image.png'
  train = ('--config', 'pics', *SMALL, '--seeds=0,1', f'--workdir={runs}')
  seeds_json = runs / 'seeds-0-1.json'
  benchmark_arguments = ('kd', '--image_size=8', '--classes=10', '--images=64')
  return (
    ('train', train),
    ('evaluate', (runs / 'seed0',)),
    ('export', (runs / 'seed0', out)),
    ('evaluate', (out,)),
    ('predict', (out, image)),
    ('compare', (seeds_json, '--reference=pics')),
    ('list', ('networks', 'resnet8', 'resnet20')),
    (
      'benchmark',
      (
        *benchmark_arguments,
        '--batch_size=8',
        '--repeats=1',
        f'--json={folder / "times.json"}',
      ),
    ),
    ('benchmark', (*benchmark_arguments, '--batch_size=8,16', '--repeats=1')),
  )


def main(kind, name):
  """Runs every command; see the module.

  Args:
    kind: One of `KINDS`.
    name: The folder of all files.
  """
  folder = pathlib.Path(name)
  Image.new('RGB', (8, 8)).save(folder / 'image.png')
  jax.config.update('jax_platforms', 'cpu')
  install(kind)
  for verb, arguments in commands(folder):
    sys.argv = ['kd-jax', verb, *map(str, arguments)]
    try:
      runpy.run_module('kd_jax', run_name='__main__')
      code = 0
    except SystemExit as ended:
      code = ended.code
    print(json.dumps([verb, code]), flush=True)


if __name__ == '__main__':
  main(*sys.argv[1:])
