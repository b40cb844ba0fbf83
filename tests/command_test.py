"""What commands print and return where something is wrong."""

import pytest

from kd_jax import checkpoint, command, errors


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
  assert 'python -m kd_jax.x --help' in error
  assert main(['f']) == 0
