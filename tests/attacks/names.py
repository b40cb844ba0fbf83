"""Names that a stranger chose, which could steer a terminal or forge rows."""

import contextlib
import functools
import io
import json
import pathlib
import sys
from types import SimpleNamespace

from etils import epath
import numpy as np
from safetensors import numpy as safetensors

from kd_jax import errors, models
from kd_jax.cli import evaluate, predict
from kd_jax.data import decode, source
from kd_jax.data.sets import pickles, tree
from kd_jax.models.pretrained import convert
from kd_jax.runtime import command, logging, run_dir, screen
from kd_jax.study import compare
from kd_jax.training import report
from tests import children
from tests.attacks import attack, told

NAMES = {**told.NAMES, 'long': 'x' * 100_000}


def printed(call):
  """Returns what a function prints on both streams, as lines."""
  out = io.StringIO()
  with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
    call()
  return out.getvalue().removesuffix('\n').split('\n')


@attack(quick=True, cases=NAMES)
def error_line(place, case):
  """An error about a name is one line on stderr."""

  @command.reporting()
  def main():
    raise errors.UsageError(f'there is no {case}: give another')

  lines = printed(main)
  assert len(lines) == 1, lines
  told.plain(lines[0])
  assert lines[0].endswith('give another')


@attack(quick=True, cases=NAMES)
def run_error(place, case):
  """So is one that ends a run, for a program that prints it itself."""
  told.plain(str(errors.RunError(f'the run of {case} failed')))


def predicted(paths, name):
  """Returns the rows of `predict`, with a network that says one class."""
  rows = [(path, name, 0.5) for path in paths]
  before = predict.label, predict.restore.load, predict.files
  predict.label = lambda *_: iter(rows)
  predict.restore.load = lambda *_, **__: SimpleNamespace(facts={})
  predict.files = lambda *_: []
  try:
    return printed(lambda: predict.main(['export', 'images']))
  finally:
    predict.label, predict.restore.load, predict.files = before


@attack(quick=True, cases=NAMES)
def predicted_class(place, case):
  """A class cannot add a row or a column to the output of predict."""
  lines = predicted([pathlib.Path('a.png')], case)
  assert len(lines) == 1, lines
  cells = lines[0].split('\t')
  assert len(cells) == 3, cells
  for cell in cells:
    told.plain(cell)
  assert cells[0] == 'a.png'
  assert cells[2] == '50.00%'


@attack(quick=True, cases=told.NAMES)
def predicted_file(place, case):
  """Nor can the name of a file."""
  lines = predicted([pathlib.Path(f'{case}.png')], 'cat')
  assert len(lines) == 1, lines
  cells = lines[0].split('\t')
  assert cells[1:] == ['cat', '50.00%'], cells
  told.plain(cells[0])


@attack(quick=True, cases=told.LEGITIMATE)
def legitimate(place, case):
  """Letters of any script stay as they are, and so do spaces."""
  rows = predicted([pathlib.Path(f'{case}.png')], case)
  assert rows == [f'{case}.png\t{case}\t50.00%']
  assert case in report.table([('class', 'n'), (case, '1')])
  assert case in str(errors.UsageError(f'no {case}'))


@attack(quick=True, cases=NAMES)
def rows_of_evaluate(place, case):
  """A class, a network or a data set cannot forge lines of evaluate."""
  rows = [{'name': case, 'images': 1, 'correct': 1, 'top1': 100.0}] * 2
  figures = {'correct': 1, 'images': 1, 'top1': 100.0, 'classes': rows}
  found = SimpleNamespace(facts={'network': case, 'class_names': [case]})
  info = SimpleNamespace(name=case, class_names=('b',), task='classification')
  lines = evaluate.text(found, info, 'test', figures, case).split('\n')
  assert len(lines) == 8, lines
  for line in lines:
    told.plain(line)
  assert json.loads(json.dumps(figures)) == figures


@attack(quick=True, cases=NAMES)
def rows_of_compare(place, case):
  """A run's method, network or data cannot forge rows of compare."""
  row = {
    'label': case, 'network': case, 'method': case, 'data': case, 'seeds': [0],
    'student': {'mean': 1.0, 'std': None}, 'metric': 'top-1',
    'from_alone': None, 'from_reference': None,
  }  # fmt: skip
  shown = {'rows': [row], 'reference': case, 'made': {}, 'left_out': [case]}
  lines = compare.markdown(shown).split('\n')
  assert len(lines) == 7, lines
  for line in lines:
    told.plain(line)


@attack(quick=True, cases=NAMES)
def log(place, case):
  """A name is no control of a terminal in a run's lines and log."""
  (place / 'run').mkdir()
  reporter = logging.Reporter(run_dir.Folder(epath.Path(place / 'run')))
  lines = printed(lambda: reporter.line(f"teacher's file: {case}"))
  text = (place / 'run/log.txt').read_text()
  logged = text.removesuffix('\n').split('\n')
  assert len(lines) == len(logged) == 1, (lines, logged)
  told.plain(lines[0])
  told.plain(logged[0])


@attack(quick=True, cases=told.NAMES)
def progress(place, case):
  """Nor is it one in the progress of a terminal."""

  class Terminal(io.StringIO):
    def isatty(self):
      return True

  out, before = Terminal(), sys.stdout
  sys.stdout = out
  try:
    screen.Screen().progress(f'epoch 1: {case}')
  finally:
    sys.stdout = before
  told.plain(out.getvalue().removeprefix('\r\x1b[K'))


@attack(quick=True, cases=NAMES)
def left_out(place, case):
  """What is left out of a folder is named in one line."""
  found = tree.LeftOut(epath.Path('/images'))
  found.add('hidden', epath.Path('/images') / case)
  told.plain(str(found))


@functools.cache
def network():
  """Returns a small network."""
  return models.make('resnet8', 10, widths=(4, 4, 8, 8))


FEW = {name: NAMES[name] for name in ('clear', 'line feed', 'long')}


@attack(quick=True, cases=FEW)
def array(place, case):
  """The arrays of a file of weights are named in one short line."""
  name = case.replace('\udcff', '\u200e')  # safetensors writes UTF-8
  file = place / 'w.safetensors'
  safetensors.save_file({name: np.zeros(1, np.float32)}, file)
  told.refused(lambda: convert.load(network(), file))


@attack(quick=True, cases=FEW)
def key(place, case):
  """So is the key under which weights are looked for."""
  file = place / 'w.safetensors'
  safetensors.save_file({'a': np.zeros(1, np.float32)}, file)
  told.refused(lambda: convert.load(network(), file, case))


@attack(quick=True, cases=NAMES)
def image(place, case):
  """An image that cannot be read is named in one line."""
  told.refused(lambda: decode.decode(b'no image', f'train/{case}.png'))


@attack(quick=True, cases=NAMES)
def choice(place, case):
  """A name that is unknown, and those that there are, are one line."""
  told.plain(str(errors.unknown('class', case, [case, f'{case}2'])))


@attack(quick=True, cases=NAMES)
def module(place, case):
  """A module that a configuration names is refused in one line."""
  told.refused(lambda: errors.imported(case, 'Net'))


@attack(quick=True, cases=told.NAMES)
def of_a_pickle(place, case):
  """The name of a function that a pickle asks for is shown without controls."""
  content = f'c{case}\n{case}\n.'.encode('utf-8', 'replace')
  try:
    pickles.load(content)
  except Exception as error:
    told.plain(str(errors.UsageError(f'no archive ({error})')))
  else:
    raise AssertionError('it was taken')


@attack(quick=True, cases=NAMES)
def key_of_a_configuration(place, case):
  """A run folder's own keys and values cannot forge lines."""
  folder = run_dir.Folder(epath.Path(place / 'run'))
  given = {
    'epochs': 1, 'seed': 0, 'cache_dir': str(place), 'data': {'name': 'digits'},
    'optimizer': {}, 'weights': {},
  }  # fmt: skip
  folder.write_alone('config.json', {**given, case: case, 'data_facts': {}})
  told.refused(lambda: folder.claim(given, {}), 'another configuration')


@attack(quick=True, cases=NAMES)
def label(place, case):
  """Labels that are no class are refused by the name of their file."""
  told.refused(
    lambda: source.check_labels(np.array([7]), 2, case, f'see {case}')
  )


@attack(quick=False)
def script_of_an_export(place):
  """The script of an export escapes names of classes and of files too."""
  folder, images = place / 'export', place / 'images'
  images.mkdir()
  folder.mkdir()
  script = pathlib.Path(predict.__file__).parents[1] / 'export'
  text = (script / 'predict_template.py').read_text()
  start = text.index("if __name__ == '__main__':")
  stub = (
    'def load(folder):\n'
    "  names = ['\\x1b[2Jcat\\nb.npy\\tdog'] * 2\n"
    "  facts = {'image_size': 8, 'class_names': names}\n"
    '  return facts, lambda images: np.zeros((len(images), 2))\n\n\n'
  )
  (folder / 'predict.py').write_text(text[:start] + stub + text[start:])
  hostile = images / 'a\nfake\t9\x1b[2J.npy'
  np.save(hostile, np.zeros((1, 8, 8, 3), np.uint8))
  done = children.run(
    [sys.executable, str(folder / 'predict.py'), str(hostile)],
    check=False,
    cwd=place,
  )
  lines = done.stdout.removesuffix('\n').split('\n')
  assert len(lines) == 1, (lines, done.stderr)
  cells = lines[0].split('\t')
  assert len(cells) == 2, cells
  for cell in cells:
    told.plain(cell)
