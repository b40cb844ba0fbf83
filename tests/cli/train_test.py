"""The command line: every mistake is one line and exit code 2."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

from kd_jax import errors
from kd_jax.cli import starting, train
from kd_jax.runtime import distributed
from tests import children, compiled

ROOT = pathlib.Path(__file__).parent.parent.parent


def environment(**more):
  """What a process of a test is started with: a CPU, compiling little."""
  paths = [str(ROOT), os.environ.get('PYTHONPATH', '')]
  return {
    **os.environ,
    'PYTHONPATH': os.pathsep.join(paths),
    'JAX_PLATFORMS': 'cpu',
    'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
    **compiled.environment(),
    **more,
  }


def start(*arguments, module='kd_jax.main', cwd=ROOT, **more):
  """Starts `python -m kd_jax.main` with these arguments."""
  return children.Child(
    [sys.executable, '-m', module, *arguments],
    cwd=cwd,
    env=environment(**more),
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  )


def configuration(name):
  """The module `configs/<name>.py`."""
  path = ROOT / 'configs' / f'{name}.py'
  spec = importlib.util.spec_from_file_location(f'configs_{name}', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


MISTAKES = {
  '--config fpdd': "'fpdd'; did you mean 'fpd'",
  '--config fpd:digit': "recipe 'digit'; did you mean 'digits'",
  '--config fpd --config.epoch=3': "did you mean 'epochs'",
  '--config fpd --config.weights.kdd=1': "did you mean 'kd'",
  '--config fpd --config.epochs=many': 'config.epochs=many',
  '--config fpd --config.teacher.dtype=half': 'config.teacher.dtype',
  '--config fpd --config.method=kdd': "did you mean 'kd'",
  '--config fpd --config.student.name=resnet9': "did you mean 'resnet8'",
  '--config fpd --config.data.name=digit': "did you mean 'digits'",
  "--config fpd --config.method_args.taps=('stem','stage9')": 'stage9',
  '--config fpd --config.mesh.data=99': 'config.mesh.data=99',
  '--config fpd --config.baseline=yes': "'yes'",
  '--config fpd --config.accumulate_steps=5': 'config.accumulate_steps=5',
  '--config fpd --config.bn_group_size=5': 'config.bn_group_size=5',
  '--config fpd stray': "unexpected argument 'stray'",
  '--config fpd --wokdir=x': "did you mean '--workdir'",
  '--config fpd --epochs=3': "'--config.epochs'",
  '--config.epochs=3': '--config is missing',
  # Keys may come before --config.
  '--config.seed=1 --config fpd --config.lr=3': 'optimizer.learning_rate.value',
  'fpd': 'did you mean --config fpd',
  '--config fpd --config.data=digits': '--config.data.NAME=VALUE',
  '--config fpd --config.optimizer.learning_rate=0.1': (
    '--config.optimizer.learning_rate.value=0.1'
  ),
  '--config fpd --config.optimizer.learning_rate=cosine': (
    '--config.optimizer.learning_rate.kind=cosine'
  ),
  '--config fpd --seeds=0,a': 'whole numbers',
  '--config fpd --seeds=4 --together': 'there is one seed',
  '--config fpd --config.teacher.path=nowhere': 'nowhere',
  '--config fpd --config.teacher.recipe.epochs=-1': 'epochs=-1',
  '': '--config is missing',
}


# Imports once, then runs each command line in a process of its own.
SERVE = """
import json, os, sys
from kd_jax.cli import train
for arguments in json.load(sys.stdin):
  out, err = os.pipe(), os.pipe()
  child = os.fork()
  if not child:
    os.dup2(out[1], 1), os.dup2(err[1], 2)
    sys.argv = ['main', *arguments]
    code = 70
    try:
      train.start()
    except SystemExit as ended:
      code = ended.code
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(code)
  os.close(out[1]), os.close(err[1])
  texts = [open(end).read() for end in (err[0], out[0])]
  code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
  print(json.dumps([code, *texts]), flush=True)
"""


def test_every_mistake_is_one_line_and_exit_code_2(tmp_path):
  served = children.run(
    [sys.executable, '-c', SERVE],
    text_in=json.dumps([args.split() for args in MISTAKES]),
    cwd=tmp_path,
    env=environment(KD_JAX_CACHE=str(tmp_path)),
  )
  said = served.stdout.splitlines()
  assert len(said) == len(MISTAKES), served.stderr
  for (args, cure), line in zip(MISTAKES.items(), said, strict=True):
    code, err, out = json.loads(line)
    assert code == 2, f'{args}\n{out}\n{err}'
    assert err.count('\n') == 1, f'{args}\n{err}'
    assert err.startswith('kd_jax: ')
    assert cure in err, f'{args}\n{err}'


def test_seeds_of_several_processes_do_not_train_together():
  with pytest.raises(errors.UsageError, match='there are 2: leave it out'):
    starting.check_together([0, 1], processes=2)


def test_deterministic_says_so_to_xla_before_jax_starts(monkeypatch):
  started = []
  monkeypatch.setattr(
    distributed, 'start', lambda _: started.append(os.environ['XLA_FLAGS'])
  )
  monkeypatch.setenv('XLA_FLAGS', '--xla_cpu_use_onednn=false')
  config = configuration('kd').get_config()
  train._before_jax_starts(config)
  config.deterministic = True
  train._before_jax_starts(config)
  assert started[0] == '--xla_cpu_use_onednn=false'
  assert started[1].startswith('--xla_cpu_use_onednn=false ')
  assert '--xla_gpu_deterministic_ops=true' in started[1]


def test_the_module_itself_ends_with_that_code_and_line(tmp_path):
  with start('--config', 'fpdd', cwd=tmp_path) as process:
    out, err = process.communicate()
  assert (process.returncode, out) == (2, '')
  assert "did you mean 'fpd'" in err


def test_a_cache_that_cannot_be_made_is_one_line_with_the_key(
  monkeypatch, capsys
):
  monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR')
  starting.before_jax_starts(deterministic=False, cache_dir='/proc/none')
  said = capsys.readouterr().err
  assert said.count('\n') == 1
  assert '/proc/none/compiled cannot be made' in said
  assert 'config.cache_dir' in said
