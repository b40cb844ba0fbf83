"""Seeds that are wrong, there twice or many: known before anything runs."""

import contextlib
import io
import os
import sys
from unittest import mock
import warnings

from absl import flags
from absl.testing import flagsaver

from kd_jax.cli import app, train
from kd_jax.study import trained
from tests.attacks import attack


class Ran(Exception):  # noqa: N818  (it ends a command whose run has begun)
  """A run was begun."""


def said(*arguments, run=None):
  """Returns the exit code and stderr of a command, whose runs only begin.

  Args:
    *arguments: The verb and its arguments.
    run: Takes the place of `study.trained.run`; by default it raises `Ran`.
  """
  err = io.StringIO()
  with contextlib.ExitStack() as stack:
    enter = stack.enter_context
    enter(flagsaver.flagsaver())
    flags.FLAGS.unparse_flags()
    enter(mock.patch.object(sys, 'argv', []))
    enter(mock.patch.object(trained, 'run', run or mock.Mock(side_effect=Ran)))
    enter(mock.patch.object(train, '_before_jax_starts'))
    enter(contextlib.redirect_stderr(err))
    enter(contextlib.redirect_stdout(io.StringIO()))
    enter(warnings.catch_warnings())
    warnings.simplefilter('ignore', DeprecationWarning)  # of config_flags
    try:
      code = app.main([*arguments])
    except SystemExit as ended:
      code = ended.code
  return code, err.getvalue()


def check_refused(place, *arguments):
  """Checks that a command ends with one line before anything is written."""
  code, err = said(*arguments)
  assert code == 2, (code, err)
  assert err.count('\n') == 1, err
  assert 'seed' in err
  assert not os.listdir(place)


WRONG = {
  'twice': '1,1',
  'twice later': '0,1,2,0',
  'twice as another text': '1,01',
  'twice with spaces': '1, 1',
  'negative': '-1',
  'negative later': '0,1,-1',
  'too large': '2147483648',
  'far too large': '1' + 60 * '0',
  'longer than Python reads': 5000 * '9',
  'nan': '0,nan',
  'infinity': '1e999',
  'fraction': '0,1.5',
  'empty': '',
  'empty later': '0,',
  'comma': ',',
  'word': '0,x',
  'hexadecimal': '0x10',
  'grouped': '1_0',
  'other digits': '\u0661',
  'line feed': '0\n1',
  'option': '--config',
}
VERBS = {
  'train': ('train', '--config=ce', '--workdir=out'),
  'sweep': ('sweep', '--config=ce', '--set=epochs=1', '--workdir=out'),
  'reproduce': ('reproduce', 'run', 'kd:digits', '--work=out', '--out=out'),
}
CASES = {
  f'{verb}, {name}': (*arguments, f'--seeds={seeds}')
  for verb, arguments in VERBS.items()
  for name, seeds in WRONG.items()
}


@attack(quick=True, cases=CASES)
def wrong(place, arguments):
  """Seeds that are wrong are refused by every verb before its first run."""
  check_refused(place, *arguments)


def result(seed):
  return {
    'seed': seed, 'top1': 90.0 + seed % 7, 'teacher': None, 'method': 'ce',
    'network': 'resnet8', 'params': 1.0, 'flops': 1.0, 'wall_s': 1.0,
  }  # fmt: skip


MANY = {
  '2 short': (range(2), 'seeds-0-1.json'),
  '5': (range(100, 105), 'seeds-100-101-102-103-104.json'),
  '24 long': (range(2000000001, 2000000025), None),
  '24 others': (range(2000000002, 2000000026), None),
  '300': (range(300), None),
}


@attack(quick=True, cases=MANY)
def many(place, case):
  """Many seeds have a file of figures, whose name a file may have."""
  seeds, name = case
  code, err = said(
    *('train', '--config=ce', f'--workdir={place}/out'),
    f'--seeds={",".join(map(str, seeds))}',
    run=lambda config, folder, *_, **__: (result(config.seed), None),
  )
  assert code == 0, err
  (file,) = (place / 'out').glob('seeds-*.json')
  assert name in (None, file.name)
  assert len(file.name) < 144
