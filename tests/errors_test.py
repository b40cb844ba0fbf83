"""Mistakes are named by what their reader wrote: an argument, or a key."""

import optax
import pytest

from kd_jax import data, errors, models
from kd_jax.cli import evaluate
from kd_jax.distill import build, inspect
from kd_jax.methods import registry
from kd_jax.runtime import sharding
from tests import tiny
from tests.cli import train_test


def test_the_key_takes_the_place_of_the_argument_and_the_chain_is_kept():
  with pytest.raises(errors.UsageError) as raised, errors.keys('config.data.'):
    raise errors.ArgumentError('size=9: a=1 is less')
  assert str(raised.value) == 'config.data.size=9: a=1 is less'
  assert type(raised.value) is errors.UsageError
  assert isinstance(raised.value.__cause__, errors.ArgumentError)


def test_an_argument_may_have_a_name_of_its_own():
  with (
    pytest.raises(errors.UsageError) as raised,
    errors.keys('-', n='--count'),
  ):
    raise errors.ArgumentError('n=9: give less')
  assert str(raised.value) == '--count=9: give less'


def test_only_the_inner_key_is_put():
  with (
    pytest.raises(errors.UsageError) as raised,
    errors.keys('outer.'),
    errors.keys('inner.'),
  ):
    raise errors.ArgumentError('n=9: give less')
  assert str(raised.value) == 'inner.n=9: give less'


@pytest.mark.parametrize('kind', [errors.UsageError, errors.RunError, KeyError])
def test_other_errors_are_left_as_they_are(kind):
  error = kind('size=9')
  with pytest.raises(kind) as raised, errors.keys('config.data.'):
    raise error
  assert raised.value is error


def traced(name, **args):
  """Traces a training step of a method over tiny networks."""
  exp = tiny.experiment(tiny.method(name, **args), tx=optax.sgd(0.1))
  return inspect.trace(exp, tiny.SIZE, 8)


def changed(name, values):
  """The recipe on digits of a method, with some values."""
  config = train_test.configuration(name).get_config('digits')
  with config.ignore_type(), config.unlocked():
    config.update_from_flattened_dict(values)
  return config


# What a caller of the library does, the same in a configuration, the prefix of
# its key, and the message.
SAID = {
  'data': (
    lambda: data.open_source('digits', image_size=9),
    ('kd', {'data.image_size': 9}),
    'config.data.',
    'image_size=9: digits has 8 pixels; give 0',
  ),
  'part': (
    lambda: data.open_source('digits', val_fraction=1.0),
    ('kd', {'data.val_fraction': 1.0}),
    'config.data.',
    'val_fraction=1.0: give 0 to less than 1',
  ),
  'mesh': (
    lambda: sharding.make_mesh(99),
    ('kd', {'mesh.data': 99}),
    'config.mesh.',
    'data=99: there are ',
  ),
  'made': (
    lambda: registry.make('fitnet', taps=()),
    ('fitnet', {'method_args.taps': ()}),
    'config.method_args.',
    'taps=(): give 1 or more',
  ),
  'traced': (
    lambda: traced('simkd', factor=7),
    ('simkd', {'method_args.factor': 7}),
    'config.method_args.',
    'factor=7 does not divide the ',
  ),
  'student': (
    lambda: models.make('resnet8', 10, widths=(4, 4)),
    ('kd', {'student.args.widths': (4, 4)}),
    'config.student.args.',
    'widths=(4, 4): a ResNet of 3 stages needs 4',
  ),
  'teacher': (
    lambda: models.make('resnet8', 10, widths=(4, 4)),
    ('kd', {'teacher.name': 'resnet8', 'teacher.args.widths': (4, 4)}),
    'config.teacher.args.',
    'widths=(4, 4): a ResNet of 3 stages needs 4',
  ),
}


@pytest.mark.parametrize('case', SAID)
def test_a_library_names_the_argument_and_a_run_the_key(case):
  call, (method, values), prefix, message = SAID[case]
  with pytest.raises(errors.ArgumentError) as raised:
    call()
  assert str(raised.value).startswith(message)
  with pytest.raises(errors.UsageError) as raised:
    build.build(changed(method, values))
  assert str(raised.value).startswith(prefix + message)
  assert isinstance(raised.value.__cause__, errors.ArgumentError)


def test_a_command_names_its_option(capsys):
  weights = ['x.pt', '--network=resnet8', '--data=npz:x', '--image_size=-8']
  assert evaluate.main(weights) == 2
  assert '--image_size=-8: give pixels' in capsys.readouterr().err


@pytest.mark.parametrize(
  ('line', 'error'),
  [
    ('N = int("three")', "ValueError: invalid literal .* 'three'"),
    ('N = len(3)', "TypeError: object of type 'int' has no len"),
    ('import not_there', "ModuleNotFoundError: No module named 'not_there'"),
    ('import own_inner', 'ValueError: inside'),
  ],
)
def test_an_error_in_a_users_module_is_told_with_its_file_and_line(
  line, error, tmp_path, monkeypatch
):
  (tmp_path / 'own_module.py').write_text(f'\n{line}\n')
  (tmp_path / 'own_inner.py').write_text("\nraise ValueError('inside')\n")
  monkeypatch.syspath_prepend(tmp_path)
  file = 'own_inner' if 'inner' in line else 'own_module'
  place = rf"cannot import 'own_module': .*{file}\.py, line 2, raises {error}"
  with pytest.raises(errors.UsageError, match=place) as raised:
    errors.imported('own_module', 'Net')
  assert 'PYTHONPATH' not in str(raised.value)


@pytest.mark.parametrize('name', ['not_there', 'email_.not_there', '.x', ''])
def test_a_module_that_is_not_there_must_be_installed(name):
  with pytest.raises(
    errors.UsageError, match='installed or its folder on PYTH'
  ):
    errors.imported(name, 'Net')


@pytest.mark.parametrize(
  ('text', 'want'),
  [
    ('\x1b]0;x\x07a\r\nb\tc', r'\x1b]0;x\x07a\r\nb\tc'),
    ('\u202egnp.exe\u200b\u2028\x85', r'\u202egnp.exe\u200b\u2028\x85'),
    ('\udcff\u3164', r'\udcff\u3164'),
    ('é 中文 \u3000ñ\u0303 🐈', 'é 中文 \u3000ñ\u0303 🐈'),
    (r'C:\new', r'C:\new'),
  ],
)
def test_what_is_invisible_is_escaped_and_letters_stay(text, want):
  assert errors.shown(text) == want
  assert str(errors.UsageError(text)) == want
  assert str(errors.RunError(text)) == want


def test_a_long_name_is_shortened_in_the_middle_and_its_length_said():
  said = str(errors.UsageError(f'no {"a" * 999}z b: give another'))
  assert '...(1000 characters)...' in said
  assert said.startswith('no aaa')
  assert said.endswith('z b: give another')
  assert len(said) < 300
  whole = str(errors.UsageError('a b ' * 9999))
  assert len(whole) < 4001
  assert '(39996 characters)' in whole
  assert errors.line(whole) == whole


@pytest.mark.parametrize(
  ('url', 'want'),
  [
    ('https://me:pw@h/x.pth', 'https://h/x.pth'),
    ('https://me:p/w@h/x.pth', 'https://h/x.pth'),
    ('https://me:p?w@h/x.pth', 'https://h/x.pth'),
    ('HTTP://h:80/x?token=s&sig=s#s', 'HTTP://h:80/x'),
    ('https://h/x@1?download=true&X-Amz-S=s', 'https://h/x@1?download=true'),
    ('https://h/x?secret', 'https://h/x'),
    ('http://[::1', 'http://[::1'),
    ('/home/me/a?b=c#d', '/home/me/a?b=c#d'),
  ],
)
def test_a_url_is_shown_without_what_may_be_a_secret(url, want):
  assert errors.public(url) == want
  assert str(errors.UsageError(f"path='{url}': no.")) == f"path='{want}': no."
