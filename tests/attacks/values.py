"""Values of a configuration that are none: refused in a line with their key."""

import math
import os
import re
import sys
from unittest import mock

import pytest

from kd_jax import config as config_lib
from kd_jax import errors
from kd_jax.config import schema
from kd_jax.distill import build
from kd_jax.methods import registry
from kd_jax.runtime import loggers
from tests import children
from tests.attacks import attack, images, seeds

BAD = (math.nan, math.inf, -math.inf, -1, 10**30, 1e300, '', None, [])


class Opened(Exception):  # noqa: N818  (it ends a build that was not refused)
  """The data were opened: the configuration was accepted."""


def configuration():
  config = config_lib.digits()
  config.data.name = 'cifar10'  # known, so that all is traced before it is read
  config.student.args.widths = (4, 4, 8, 8)
  config.teacher = schema.default().teacher
  config.phases.first = config_lib.ConfigDict({'epochs': 1})
  config.optimizer.learning_rate.warmup_epochs = 0
  return config


def refusal(config):
  """Returns the line with which a run is refused; '' if it is not."""
  opened = mock.patch.object(build, 'open_source', side_effect=Opened)
  with opened:
    try:
      build.build(config)
    except errors.UsageError as error:
      said = str(error)
    except Opened:
      return ''
  assert len(said.splitlines()) == 1, said
  return said


def changed(path, value):
  """Returns a configuration with another value at a path."""
  config = configuration()
  *groups, last = path.split('.')
  group = config
  for name in groups:
    group = group[name]
  with config.ignore_type(), config.unlocked():
    group[last] = value
  return config


def is_number(value):
  return isinstance(value, int | float) and not isinstance(value, bool)


def is_whole(default):
  return isinstance(default, int)


def is_numeric(key):
  if isinstance(key.default, tuple):
    numbers = ('mean', 'std', 'area', 'reset_momentum_at')
    return key.path.endswith(numbers)
  return is_number(key.default)


NUMBERS = {
  **{key.path: key.default for key in schema.KEYS if is_numeric(key)},
  'optimizer.learning_rate': 0.1,
  'optimizer.learning_rate.value': 0.1,
  'optimizer.learning_rate.factor': 0.1,
  'optimizer.learning_rate.milestones': (1,),
  'optimizer.learning_rate.warmup_epochs': 1.0,
  'phases.first.epochs': 1,
  'phases.first': None,
  'weights.ce': 1.0,
}
# What is allowed after all.
ALLOWED = {'mesh.data': (-1,), 'data.device_mb': (10**30,)}


@attack(quick=True, cases=tuple(NUMBERS))
def value(place, path):
  """What is no value of a key is refused in one line that names the key."""
  is_tuple = isinstance(NUMBERS[path], tuple)
  for bad in BAD:
    if bad in ALLOWED.get(path, ()) or (is_tuple and bad == []):
      continue
    if bad == 10**30 and not is_whole(NUMBERS[path]):
      continue  # a float32 has it
    for given in ((bad,), (bad, 0.5, bad)) if is_tuple else (bad,):
      said = refusal(changed(path, given))
      assert path in said, (path, given, said)


@attack(quick=True, cases=('value', 'milestones', 'factor'))
def rate_of_a_teacher(place, field):
  """The learning rate of a teacher that is to be trained is checked first."""
  for bad in (math.nan, -1, ''):
    config = config_lib.digits()
    given = (bad,) if field == 'milestones' else bad
    with config.ignore_type(), config.unlocked():
      config.method, config.weights = 'kd', {'ce': 1.0, 'kd': 1.0}
      config.teacher.recipe.optimizer.learning_rate[field] = given
    assert field in refusal(config)


NETWORKS = {
  'function of the system': ('os:system', {}),
  'program': ('subprocess:run', {}),
  'program that is a class': ('subprocess:Popen', {}),
  'code': ('builtins:exec', {}),
  'module that acts when imported': ('antigravity:geohash', {}),
  'number': ('math:pi', {}),
  'class': ('kd_jax.errors:UsageError', {}),
  'dataclass': ('tests.attacks:Attack', {}),
  'function of a package': ('numpy:array', {}),
  'function of other arguments': ('kd_jax.errors:unknown', {}),
  'module': ('kd_jax:errors', {}),
  'text': ('kd_jax.version:__version__', {}),
  'method of distillation': ('kd_jax.methods.kd:Method', {}),
  'absent': ('kd_jax.errors:Nothing', {}),
  'no module': ('kd_jax.nothing:Net', {}),
  'empty': (':', {}),
  'empty attribute': ('kd_jax.errors:', {}),
  'relative': ('.errors:unknown', {}),
  'path': ('../../x:y', {}),
  'spaces': ('kd_jax errors:y', {}),
  'two colons': ('kd_jax.errors:UsageError:x', {}),
  'long': ('a' * 5000 + ':b', {}),
}


@attack(quick=True, cases=NETWORKS)
def network(place, case):
  """A path of import that names no network is refused, and is not called."""
  name, args = case
  config = configuration()
  config.student = config_lib.network(name, **args)
  before = set(sys.modules)
  assert refusal(config)
  assert not ({'antigravity', 'webbrowser'} & (set(sys.modules) - before))
  assert not os.listdir(place)


OTHERS = ('os:system', 'subprocess:Popen', 'kd_jax.errors:unknown')
OTHERS = (*OTHERS, 'kd_jax.version:__version__', 'builtins:print', 'os:getcwd')


@attack(quick=True, cases=OTHERS)
def method(place, name):
  """A path of import that names no method is refused, and is not called."""
  with pytest.raises(errors.UsageError) as refused:
    registry.make(name)
  assert name in str(refused.value)


@attack(quick=True, cases=OTHERS)
def writer(place, name):
  """A path of import that names no class is refused, and is not called."""
  with pytest.raises(errors.UsageError) as refused:
    loggers.make([name])
  said = str(refused.value)
  assert name in said
  assert 'cannot be made' not in said, 'it was called'


@attack(quick=True, cases=OTHERS)
def data(place, name):
  """A path of import that names no data is refused in one line."""
  config = configuration()
  config.data.name = name
  with pytest.raises(errors.UsageError) as refused:
    build.build(config)
  assert name in str(refused.value)


FILES = {
  'passwords': '/etc/passwd',
  'device': '/dev/zero',
  'folder': '/etc',
  'absent': 'absent.py',
  'nothing': '',
  'long': 'a' * 5000,
  'binary': b'\x7fELF\0\1\2',
  'bytes': b'\xff\xfe\xfa',
  'half': b'def get_config(',
  'text': b'This is no configuration.\n',
  'deep': b'x = ' + 9000 * b'(' + 9000 * b')',
  'without a function': b'x = 1\n',
  'with a number': b'get_config = 3\n',
  'of a number': b'def get_config(recipe=None):\n  return 5\n',
  'of nothing': b'def get_config(recipe=None):\n  pass\n',
  'of an empty one': b'from kd_jax.config import ConfigDict as get_config\n',
}


@attack(quick=True, cases=FILES)
def config_file(place, case):
  """A file that is no configuration is refused in one line."""
  if isinstance(case, bytes):
    (place / 'x.py').write_bytes(case)
    case = 'x.py'
  with images.at_most(2000):
    arguments = ('train', f'--config={case}', f'--workdir={place}/out')
    code, err = seeds.said(*arguments)
  lines = [line for line in err.splitlines() if line.startswith('kd_jax: ')]
  assert (code, len(lines)) == (2, 1), err
  assert not (place / 'out').exists()


def check_too_great(values):
  """Checks that a run is refused with the bytes it needs and those there."""
  config = configuration()
  del config.phases.first
  for path, given in values.items():
    *groups, last = path.split('.')
    group = config
    for name in groups:
      group = group[name]
    with config.ignore_type(), config.unlocked():
      group[last] = given
  assert re.search(r'take [\d.]+ TB, and .* has [\d.]+ .B', refusal(config))


@attack(quick=True)
def memory(place):
  """A student that cannot fit into the device is refused with both numbers."""
  check_too_great({'student.args.widths': (100_000,) * 4})


@attack(quick=False)
def memory_of_the_optimizer(place):
  """What an optimizer keeps beside the parameters counts too."""
  widths = {'student.args.widths': (60_000,) * 4}
  check_too_great({'optimizer.name': 'adam', **widths})


@attack(quick=False)
def memory_of_the_teacher(place):
  """A teacher that cannot fit is refused too."""
  teacher = {'name': 'resnet8', 'args': {'widths': (100_000,) * 4}}
  check_too_great(
    {
      'method': 'kd',
      'weights': {'ce': 1.0, 'kd': 1.0},
      'teacher.name': teacher['name'],
      'teacher.args': config_lib.ConfigDict(teacher['args']),
    }
  )


SPLITS = {
  'evaluation': ('eval_batch_size=1000000000', 0),
  'batch': ('batch_size=1000000000', 2),
  'dispatch': ('steps_per_dispatch=1000000000', 0),
  'points': ('log_every=2147483647', 0),
  'pixels': ('data.image_size=32768', 2),
}


@attack(quick=False, cases=SPLITS)
def bounded_by_the_split(place, case):
  """A batch of 10^9 images is one of the split, within 8 GB, or refused."""
  argument, code = case
  program = (
    'import resource, sys\n'
    'resource.setrlimit(resource.RLIMIT_AS, (8_000_000_000,) * 2)\n'
    'from kd_jax.cli import train\n'
    'train.start()\n'
  )
  small = ('--config.data.name=digits', '--config.epochs=1')
  small += ('--config.student.args.widths=(4,4,8,8)', '--config.batch_size=32')
  ran = children.run(
    [
      *(sys.executable, '-c', program, '--config=ce', *small),
      *(f'--config.{argument}', '--workdir=out'),
    ],
    cwd=place,
  )
  assert ran.returncode == code, ran.stderr
  assert 'Traceback' not in ran.stderr
