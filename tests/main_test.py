"""The command line: every mistake is one line and exit code 2."""

import atexit
import functools
import importlib.util
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parent.parent


@functools.cache
def compiled():
  """A folder of this session for compiled programs."""
  folder = tempfile.TemporaryDirectory(prefix='kd_jax_compiled_')
  atexit.register(folder.cleanup)
  return folder.name


def start(*arguments, cwd=ROOT, **environment):
  """Starts `python -m kd_jax.main` with these arguments."""
  paths = [str(ROOT), os.environ.get('PYTHONPATH', '')]
  return subprocess.Popen(
    [sys.executable, '-m', 'kd_jax.main', *arguments],
    cwd=cwd,
    env={
      **os.environ,
      'PYTHONPATH': os.pathsep.join(paths),
      'JAX_PLATFORMS': 'cpu',
      'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
      # Many tests compile the same programs.
      'JAX_COMPILATION_CACHE_DIR': compiled(),
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
      **environment,
    },
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
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
  '--config fpd --config.method=kdd': "did you mean 'kd'",
  '--config fpd --config.student.name=resnet9': "did you mean 'resnet8'",
  '--config fpd --config.data.name=digit': "did you mean 'digits'",
  "--config fpd --config.method_args.taps=('stem','stage9')": 'stage9',
  '--config fpd --config.mesh.data=99': 'config.mesh.data=99',
  '--config fpd --config.baseline=yes': "'yes'",
  '--config fpd --config.accumulate_steps=5': 'config.accumulate_steps=5',
  '--config fpd --config.bn_group_size=5': 'config.bn_group_size=5',
  '--config fpd stray': "unexpected argument 'stray'",
  '--config fpd --wokdir=x': 'workdir',
  '--config fpd --seeds=0,a': 'whole numbers',
  '--config fpd --config.teacher.path=nowhere': 'nowhere',
  '--config fpd --config.teacher.recipe.epochs=-1': 'epochs=-1',
  '': '--config is missing',
}


def test_every_mistake_is_one_line_and_exit_code_2(tmp_path):
  waiting = list(MISTAKES.items())
  while waiting:
    now, waiting = waiting[:2], waiting[2:]
    started = [
      (
        args,
        cure,
        start(*args.split(), cwd=tmp_path, KD_JAX_CACHE=str(tmp_path)),
      )
      for args, cure in now
    ]
    for args, cure, process in started:
      out, err = process.communicate(timeout=120)
      assert process.returncode == 2, f'{args}\n{out}\n{err}'
      assert err.count('\n') == 1, f'{args}\n{err}'
      assert err.startswith('kd_jax: ')
      assert cure in err, f'{args}\n{err}'
