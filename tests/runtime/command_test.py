"""What commands print and return where something is wrong."""

import jax
import pytest

from kd_jax import errors
from kd_jax.runtime import checkpoint, command


@pytest.mark.parametrize(
  ('error', 'code'),
  [
    (errors.UsageError('give a number'), 2),
    (errors.RunError('it broke'), 1),
    (checkpoint.Damaged('unreadable'), 1),  # a kind of RunError
  ],
)
def test_an_error_is_one_line_and_its_kinds_exit_code(error, code, capsys):
  @command.reporting()
  def failing():
    raise error

  assert failing() == code
  assert capsys.readouterr().err == f'kd_jax: {error}\n'


def test_what_is_no_mistake_of_the_caller_stays_an_exception():
  @command.reporting()
  def broken():
    raise ZeroDivisionError

  with pytest.raises(ZeroDivisionError):
    broken()


def test_a_wrong_option_is_one_line(capsys):
  @command.reporting()
  def main(argv):
    parser = command.parser('kd_jax.x', 'Does x.\n\nAnd more.')
    parser.add_argument('file')
    parser.parse_args(argv)
    return 0

  assert main(['--wrong']) == 2
  error = capsys.readouterr().err
  assert error.count('\n') == 1
  assert 'file' in error
  assert 'kd_jax.x --help' in error
  assert main(['f']) == 0


@pytest.mark.parametrize(
  ('error', 'told'),
  [
    (AssertionError(), 'no such device here; unset it'),
    (RuntimeError('no GPU\nat all'), 'no such device here (no GPU); unset it'),
  ],
)
def test_a_platform_that_is_not_there_is_one_line(
  error, told, capsys, monkeypatch
):
  def devices():
    raise error

  @command.reporting()
  def main():
    return len(jax.devices())

  monkeypatch.setattr(jax, 'devices', devices)
  assert main() == 2
  said = capsys.readouterr().err
  assert said.startswith('kd_jax: JAX_PLATFORMS=cpu: JAX finds ' + told)
  assert 'kd_jax[cuda13]' in said
  assert said.count('\n') == 1


def test_an_error_of_our_own_stays_one_where_there_are_devices():
  @command.reporting()
  def broken():
    raise AssertionError('a mistake of kd_jax')

  with pytest.raises(AssertionError, match='a mistake of kd_jax'):
    broken()
