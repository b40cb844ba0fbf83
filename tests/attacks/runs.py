"""Run folders of strangers: names of code, wrong types, pipes, litter.

Harm is code that runs, a traceback, a wait, somebody's files removed, or a
command that a leftover blocks.
"""

import contextlib
import fcntl
import io
import json
import os
import signal
import sys
import time

import pytest

import kd_jax
from kd_jax import config as config_lib
from kd_jax import errors
from kd_jax.cli import evaluate as evaluate_cli
from kd_jax.cli import export as export_cli
from kd_jax.cli import look as look_cli
from kd_jax.cli import predict as predict_cli
from kd_jax.config import schema
from kd_jax.data.sets import digits
from kd_jax.export import artifact
from kd_jax.runtime import run_dir
from kd_jax.study import finished
from kd_jax.training import restore
from tests import children
from tests.attacks import attack
from tests.attacks.exports import ended
from tests.attacks.exports import write as write_export

RESULT = {
  'method': 'ce', 'data': 'digits', 'kept': ['student'], 'params': 100,
  'flops': 1.0, 'train_images': 1437, 'test_images': 360, 'top1': 50.0,
  'top5': 90.0, 'seed': 0, 'epochs': 1, 'steps': 10, 'network': 'resnet8',
  'wall_s': 1.0, 'teacher': None,
}  # fmt: skip


def configuration():
  """Returns the content of an honest config.json."""
  config = schema.default()
  config.data.name, config.student.name, config.epochs = 'digits', 'resnet8', 1
  return {**config_lib.plain(config), 'data_facts': digits.INFO.identity()}


def put(value, path, new):
  """Puts a value at a path such as 'student.name'."""
  *groups, last = path.split('.')
  for group in groups:
    value = value[group]
  value[last] = new


def write(place, config=(), result=()):
  """Writes a run's folder without a checkpoint, with some values changed."""
  folder = place / 'run'
  folder.mkdir()
  contents = {'config.json': configuration(), 'result.json': dict(RESULT)}
  for name, changes in (('config.json', config), ('result.json', result)):
    for path, new in dict(changes).items():
      put(contents[name], path, new)
    (folder / name).write_text(json.dumps(contents[name]))
  return folder


def refused(folder, *words):
  """Fails unless a run is refused in one line, within this process."""
  with pytest.raises(errors.UsageError) as raised:
    restore.load(folder)
  said = str(raised.value)
  assert '\n' not in said, said
  for word in (str(folder), *words):
    assert word in said, said


@contextlib.contextmanager
def trap(place):
  """Yields a module's name; fails if its code runs within the context."""
  name = f'stranger_{place.name.replace("-", "_")}'
  (place / f'{name}.py').write_text(
    f'open({str(place / "ran")!r}, "w").close()\nName = None\n'
  )
  sys.path.insert(0, str(place))
  try:
    yield f'{name}:Name'
  finally:
    sys.path.remove(str(place))
    sys.modules.pop(name, None)
  assert not (place / 'ran').exists(), 'the code of the module ran'


def said(main, *argv):
  """Runs a command in this process; returns its exit code and its stderr."""
  out, err = io.StringIO(), io.StringIO()
  with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
    code = main([str(word) for word in argv])
  return code, err.getvalue()


ALONE, TOGETHER = {}, {'kept': ['student', 'method']}
PLACES = {
  'student': ('student.name', ALONE),
  'student of a method': ('student.name', TOGETHER),
  'method': ('method', TOGETHER),
  'teacher': ('teacher.name', TOGETHER),
}


@attack(quick=True, cases=PLACES)
def named_code(place, case):
  path, result = case
  with trap(place) as name:
    folder = write(place, {path: name}, result)
    refused(folder, name.partition(':')[0], path)


COMMANDS = {
  'evaluate': lambda run, place: said(evaluate_cli.main, run),
  'predict': lambda run, place: said(predict_cli.main, run, place / 'x.png'),
  'export': lambda run, place: said(export_cli.main, run, place / 'out'),
  'look': lambda run, place: said(look_cli.main, run, f'--out={place}/x.png'),
}


@attack(quick=True, cases=COMMANDS)
def named_code_by_command(place, command):
  with trap(place) as name:
    code, err = command(write(place, {'student.name': name}), place)
    assert code == 2, err
    assert err.count('\n') == 1, err
    assert name in err, err
    assert '--allow_imports' in err, err


@attack(quick=True)
def named_code_in_the_face(place):
  with trap(place) as name, pytest.raises(errors.UsageError):
    kd_jax.load(write(place, {'student.name': name}))


@attack(quick=True)
def a_system_call(place):
  refused(write(place, {'student.name': 'os:system'}), "'os'")


@attack(quick=True)
def named_data(place):
  with trap(place) as name:
    folder = write_export(place, facts={'data': {'name': name}})
    code, err = said(evaluate_cli.main, folder)
    assert code == 2, err
    assert name in err, err


@attack(quick=True)
def a_run_that_allows_itself(place):
  with trap(place) as name:
    config = {'student.name': name, 'teacher.allow_imports': True}
    refused(write(place, config), name)


@attack(quick=False)
def named_code_as_teacher(place):
  config = schema.default()
  config.data.name, config.method, config.epochs = 'digits', 'kd', 1
  config.data.crop_padding = 0
  config.weights = {'ce': 0.5, 'kd': 0.5}
  config.student = schema.network('resnet8', widths=(4, 4, 8, 16))
  config.teacher.name = 'resnet8'
  with trap(place) as name:
    config.teacher.path = str(write(place, {'student.name': name}))
    with pytest.raises(errors.UsageError, match=name):
      kd_jax.train(config, place / 'mine')


FIELDS = {
  'name number': ('config.json', 'student.name', 5),
  'name list': ('config.json', 'student.name', ['resnet8']),
  'name null': ('config.json', 'student.name', None),
  'args list': ('config.json', 'student.args', []),
  'student text': ('config.json', 'student', 'resnet8'),
  'dtype number': ('config.json', 'dtype', 32),
  'data list': ('config.json', 'data', []),
  'facts text': ('config.json', 'data_facts', 'digits'),
  'facts list': ('config.json', 'data_facts', []),
  'classes number': ('config.json', 'data_facts.class_names', 10),
  'classes numbers': ('config.json', 'data_facts.class_names', [1, 2]),
  'size text': ('config.json', 'data_facts.image_size', '8'),
  'size huge': ('config.json', 'data_facts.image_size', 10**12),
  'size negative': ('config.json', 'data_facts.image_size', -8),
  'mean nan': ('config.json', 'data_facts.mean', [float('nan')] * 3),
  'std zero': ('config.json', 'data_facts.std', [0] * 3),
  'mean short': ('config.json', 'data_facts.mean', [0.5]),
  'kept text': ('result.json', 'kept', 'student'),
  'kept none': ('result.json', 'kept', []),
  'kept number': ('result.json', 'kept', 1),
  'top1 text': ('result.json', 'top1', '50'),
  'top1 nan': ('result.json', 'top1', float('nan')),
  'top1 infinite': ('result.json', 'top1', float('inf')),
  'images text': ('result.json', 'test_images', 'many'),
  'images huge': ('result.json', 'test_images', 10**400),
  'teacher text': ('result.json', 'teacher', 'resnet8'),
  'flops true': ('result.json', 'flops', True),
}


@attack(quick=True, cases=FIELDS)
def wrong_field(place, case):
  name, path, value = case
  changes = {name.removesuffix('.json'): {path: value}}
  refused(write(place, **changes))


ARGUMENTS = {
  'widths text': ('student.args', {'widths': 'abc'}),
  'widths null': ('student.args', {'widths': None}),
  'widths infinite': ('student.args', {'widths': [1e308] * 4}),
  'widths huge': ('student.args', {'widths': [10**12] * 4}),
  'stem number': ('student.args', {'stem': 5}),
  'dtype text': ('student.args', {'dtype': 'x'}),
  'classes twice': ('student.args', {'num_classes': 10**9}),
  'name twice': ('student.args', {'name': 'x'}),
  'stages number': ('student.args', {'stage_sizes': 5}),
  'stages objects': ('student.args', {'stage_sizes': [{}]}),
  'a module': ('student.args', {'norm': 'os:system'}),
  'other dtype': ('dtype', 'int7'),
}


@attack(quick=True, cases=ARGUMENTS)
def wrong_argument(place, case):
  path, value = case
  refused(write(place, {path: value}))


@attack(quick=True)
def a_deployment_of_strangers(place):
  refused(write(place, {}, {'kept': ['a', 'b']}))


TEXTS = {
  'empty': b'',
  'null': b'null',
  'list': b'[]',
  'cut': b'{"method": "ce", "kept": ["stu',
  'deep': b'[' * 100_000 + b']' * 100_000,
  'deep object': b'{"a":' * 50_000 + b'1' + b'}' * 50_000,
  'number': b'{"epochs": ' + b'9' * 5000 + b'}',
  'infinite': b'{"top1": 1e999}',
  'nested': b'{"a":' * 300 + b'1' + b'}' * 300,
  'bytes': b'\xff\xfe\x00\x01\x02',
}
FILES = ('config.json', 'result.json', 'data.json')


@attack(
  quick=True,
  cases={f'{f} {t}': (f, TEXTS[t]) for f in FILES for t in TEXTS},
)
def damaged_text(place, case):
  name, text = case
  folder = write(place)
  (folder / name).write_bytes(text)
  refused(folder)


@attack(quick=True, cases=FILES)
def pipe(place, name):
  folder = write(place)
  (folder / name).unlink(missing_ok=True)
  os.mkfifo(folder / name)
  began = time.monotonic()
  with ended(folder / name):
    refused(folder)
  assert time.monotonic() - began < 1


@attack(quick=True)
def pipe_for_a_comparison(place):
  folder = write(place)
  (folder / 'result.json').unlink()
  os.mkfifo(folder / 'metrics.jsonl')
  began = time.monotonic()
  with ended(folder / 'metrics.jsonl'), pytest.raises(errors.UsageError):
    finished.find([str(folder)])
  assert time.monotonic() - began < 1


@attack(quick=True, cases=TEXTS)
def damaged_comparison(place, text):
  folder = write(place)
  (folder / 'result.json').write_bytes(text)
  with pytest.raises(errors.UsageError) as raised:
    finished.find([str(folder)])
  assert '\n' not in str(raised.value)


RECORDS = {
  'null': 'null',
  'list': '[1]',
  'number': '5',
  'no step': '{"epoch": 1.0}',
  'step text': '{"step": "1", "epoch": 1.0}',
  'step nan': '{"step": NaN, "epoch": 1.0}',
  'epoch text': '{"step": 1, "epoch": "one"}',
  'epoch infinite': '{"step": 1, "epoch": 1e999}',
  'huge step': '{"step": ' + '1' * 400 + ', "epoch": 1}',
  'figure text': '{"step": 1, "epoch": 1.0, "test/top1": "high"}',
  'figure list': '{"step": 1, "epoch": 1.0, "test/top1": [1]}',
  'deep': '[' * 100_000 + ']' * 100_000,
}


@attack(quick=True, cases=RECORDS)
def damaged_record(place, line):
  folder = run_dir.Folder(place)
  (place / 'metrics.jsonl').write_text(f'{line}\n')
  with pytest.raises(errors.UsageError, match=r'metrics\.jsonl'):
    run_dir.Records(folder).truncate(10)


@attack(quick=True)
def a_cut_record(place):
  """A killed process leaves one: it holds nobody up."""
  text = '{"step": 1, "epoch": 1.0}\n{"step": 2, "epo'
  (place / 'metrics.jsonl').write_text(text)
  records = run_dir.Records(run_dir.Folder(place))
  assert [record['step'] for record in records.read()] == [1]


def export(place):
  """Writes a folder as an export does."""
  with artifact.beside(place / 'out') as part:
    (part / 'network.json').write_text('{}')


@attack(quick=True)
def litter_of_the_same_process_number(place):
  theirs = place / f'.out.{os.getpid()}.part'
  theirs.mkdir()
  (theirs / 'theirs').write_text('theirs')
  export(place)
  assert (place / 'out/network.json').exists()
  assert (theirs / 'theirs').read_text() == 'theirs'


@attack(quick=True)
def a_live_export_of_another(place):
  with artifact.beside(place / 'out') as part:
    (part / 'mine').write_text('mine')
    with artifact.beside(place / 'out') as other:
      assert other != part
      assert (part / 'mine').read_text() == 'mine'
      (other / 'network.json').write_text('{}')
    # The first finds the second's export, and says so.
    (place / 'out/network.json').unlink()
  assert [path.name for path in place.iterdir()] == ['out']


@attack(quick=True)
def a_folder_that_looks_like_litter(place):
  folder = place / f'.out.{"0" * 32}.part'
  folder.mkdir()
  (folder / 'mine').write_text('mine')
  outside = place / 'outside'
  outside.mkdir()
  (outside / '.lock').touch()
  (place / f'.out.{"1" * 32}.part').symlink_to(outside)
  held = place / f'.out.{"2" * 32}.part'
  held.mkdir()
  with open(held / '.lock', 'w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    export(place)
  assert (folder / 'mine').exists()
  assert (outside / '.lock').exists()
  assert (held / '.lock').exists()


KILLED = """
import os, pathlib, sys
from kd_jax.export import artifact
with artifact.beside(sys.argv[1]) as part:
  (part / 'half').write_text('half')
  os.kill(os.getpid(), int(sys.argv[2]))
"""


@attack(quick=False)
def a_killed_export(place):
  number = str(int(signal.SIGKILL))
  children.run([sys.executable, '-c', KILLED, str(place / 'out'), number])
  assert [path.name[:5] for path in place.iterdir()] == ['.out.']
  export(place)
  assert [path.name for path in place.iterdir()] == ['out']


@attack(quick=False, cases=['SIGTERM', 'SIGINT'])
def an_ended_export(place, name):
  code = f"""
import os, signal, sys
from kd_jax.cli import export
from kd_jax.training import restore

def load(*args, **kwargs):
  # A shell ignores SIGINT for what it starts in the background.
  if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
  os.kill(os.getpid(), signal.{name})
  while True:
    signal.pause()

restore.load = load
sys.exit(export.main(['run', sys.argv[1]]))
"""
  done = children.run([sys.executable, '-c', code, str(place / 'out')])
  assert done.returncode != 0
  assert not list(place.iterdir())
