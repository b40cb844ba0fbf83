"""Every program of a run, compiled for chips that are not there.

Where XLA's compiler for a chip is not installed, its tests are skipped. They
run the command in a process of its own: compiling for a chip needs settings
that this session does not have.
"""

import ast
import json
import pathlib
import sys

import pytest

import kd_jax
from kd_jax.benchmark import chips, programs
from kd_jax.runtime import sharding
from tests import children
from tests.benchmark import compilers

TINY = ('--student=resnet8', '--teacher=resnet8', '--batch_size=8')
UNKNOWN = '--teacher=tests.benchmark.uncompilable:Net'
ROOT = pathlib.Path(kd_jax.__file__).parent
# Where `jax.jit` stands, and why the command needs no program of it but those
# that it has.
JITTED = {
  'export/tensorflow_script.py',  # in a process of its own
  'cli/export.py',  # what 'predict' compiles
  'distill/jitted.py',
  'distill/evaluation.py',
  'runtime/checkpoint.py',
  'runtime/distributed.py',
  'export/artifact.py',  # also what 'predict' compiles
  'export/predict_template.py',  # what 'export' compiles
  'export/onnx.py',  # on a CPU, beside onnxruntime
  'study/tapped.py',  # pictures of finished runs
  'training/classes.py',  # two images through what 'evaluate' compiles
}


def command(*argv):
  """Exit code, rows by program, and stderr of the command in a new process."""
  name = 'kd_jax.benchmark.programs'
  done = children.run([sys.executable, '-m', name, *argv])
  return done.returncode, done.stdout, done.stderr


def rows(path):
  """The rows of a command by their programs."""
  return {row['program']: row for row in json.loads(path.read_text())['rows']}


@pytest.fixture
def here(monkeypatch):
  """This machine's CPU in place of a chip."""
  monkeypatch.setattr(chips, 'prepare', lambda: None)
  monkeypatch.setattr(
    chips, 'mesh_of', lambda place: (None, sharding.make_mesh(1))
  )


@pytest.mark.parametrize(
  ('place', 'config', 'dtype', 'only'),
  [
    compilers.param('h100', 'kd', 'float32', ''),
    compilers.param('h100', 'ffsd', 'bfloat16', '^steps: 128'),
    compilers.param('v5e:2x2', 'ffsd', 'float32', '^steps: 128|eval|export'),
    compilers.param('v5e:2x2', 'kd', 'bfloat16', ''),
  ],
)
def test_the_programs_of_a_run_compile(tmp_path, place, config, dtype, only):
  out = tmp_path / 'rows.json'
  given = (f'--chips={place}', f'--dtypes={dtype}', f'--only={only}')
  code, stdout, stderr = command(config, *TINY, *given, f'--json={out}')
  assert code == 0, stdout + stderr
  found = rows(out)
  assert 'steps: 128' in found  # as on the chip: on a CPU it is 1
  assert len(found) == (18 if not only else 5 if 'export' in only else 1)
  assert {row['error'] for row in found.values()} == {''}


@pytest.mark.parametrize(
  'place', [compilers.param('h100'), compilers.param('v5e:2x2')]
)
def test_a_program_that_a_chip_cannot_have_ends_the_command_with_1(place):
  given = ('--student=resnet8', UNKNOWN, '--dtypes=float32')
  only = '--only=stop poll|^evaluation$|^known logits$'
  code, stdout, stderr = command('kd', *given, f'--chips={place}', only)
  assert code == 1
  assert 'kd_jax: 1 of 3 programs do not compile' in stderr
  (line,) = [row for row in stdout.splitlines() if 'no_such_kernel' in row]
  assert line.startswith(f'kd, float32, {place}, known logits: ')


def test_what_does_not_compile_is_told_by_its_first_line(here, capsys):
  given = ('--student=resnet8', UNKNOWN, '--dtypes=float32', '--images=64')
  only = '--only=stop poll|^known logits$'
  assert programs.main(['kd', *given, '--chips=here', only]) == 1
  out, error = capsys.readouterr()
  assert 'kd_jax: 1 of 2 programs do not compile' in error
  results = {line.split('  ')[0]: line for line in out.splitlines()}
  assert results['stop poll'].endswith('  ok')
  assert results['known logits'].endswith('  fails')
  told = out.splitlines()[-1]
  assert told.startswith('kd, float32, here, known logits: ')
  assert 'no_such_kernel' in told


@pytest.mark.parametrize(
  ('only', 'told'),
  [
    ('foo', "unknown value of --only: 'foo' (there are: checkpoint digests,"),
    ('(', '--only=(: this is no regular expression'),
  ],
)
def test_a_choice_of_no_program_is_one_line(here, capsys, only, told):
  assert programs.main(['ce', *TINY, '--chips=here', f'--only={only}']) == 2
  assert told in capsys.readouterr().err.splitlines()[-1]


def test_a_run_jits_nothing_but_what_the_command_compiles():
  for path in ROOT.rglob('*.py'):
    name = path.relative_to(ROOT).as_posix()
    if name.startswith(('benchmark/', 'configs/')) or name in JITTED:
      continue
    for node in ast.walk(ast.parse(path.read_text())):
      jit = isinstance(node, ast.Attribute) and node.attr in ('jit', 'pjit')
      assert not jit, f'{name} jits: add it to kd_jax.benchmark.planned'
