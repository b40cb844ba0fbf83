"""What all commands share: argument parsing and the reporting of errors.

A user's mistake ends a command with one line on stderr and an exit code.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import functools
import sys
from typing import Any, NoReturn, ParamSpec, TypeVar

import jax

from kd_jax import errors
from kd_jax.runtime import screen

EXIT_CODES: Mapping[type[Exception], int] = {
  errors.RunError: 1,
  errors.UsageError: 2,
}

_Arguments = ParamSpec('_Arguments')
_Result = TypeVar('_Result')


def reporting(
  codes: Mapping[type[Exception], int] = EXIT_CODES,
  leave: Callable[[int], None] = lambda code: None,
) -> Callable[
  [Callable[_Arguments, _Result]], Callable[_Arguments, _Result | int]
]:
  """Returns a decorator that turns a command's errors into exit codes.

  The decorated command prints the error as one line on stderr and returns the
  exit code.

  Args:
    codes: The exit code of each class of errors, its subclasses included. The
      first class that fits counts.
    leave: Called with the exit code, after the line is printed.
  """

  def decorate(command):
    @functools.wraps(command)
    def reported(*args, **kwargs):
      try:
        with _devices_named():
          return command(*args, **kwargs)
      except tuple(codes) as error:
        screen.show(f'kd_jax: {errors.line(error)}', error=True)
        kinds = (kind for kind in codes if isinstance(error, kind))
        code = codes[next(kinds)]
        leave(code)
        return code

    return reported

  return decorate


def process(main: Callable[[Sequence[str]], int | None]) -> NoReturn:
  """Runs a command as a process of its own, and ends it with the exit code.

  A reader of stdout that has left, as `| head` does, is no fault.

  Args:
    main: The command, a function of the arguments.
  """
  screen.open_missing()
  try:
    code = main(sys.argv[1:])
    sys.stdout.flush()
  except BrokenPipeError:
    code = 0
  finally:
    screen.settle()
  sys.exit(code)


@contextlib.contextmanager
def _devices_named() -> Iterator[None]:
  """Raises UsageError in place of JAX's errors if JAX has no usable device."""
  try:
    yield
  except errors.RunError:
    raise
  except (AssertionError, RuntimeError):
    try:
      jax.devices()
    except (AssertionError, RuntimeError) as error:
      wanted = jax.config.values['jax_platforms'] or ''
      why = f' ({str(error).partition(chr(10))[0]})' if str(error) else ''
      raise errors.UsageError(
        f'JAX_PLATFORMS={wanted}: JAX finds no such device here{why}; unset it '
        'to use what there is, or see that the device works and that JAX is '
        'installed for it: kd_jax[cuda13], kd_jax[cuda12] or kd_jax[tpu]'
      ) from error
    raise


class Parser(argparse.ArgumentParser):
  """An `argparse.ArgumentParser` which raises UsageError for a mistake.

  argparse itself prints the whole usage and exits.
  """

  def error(self, message: str) -> NoReturn:
    """Raises UsageError with the message; argparse calls this."""
    raise errors.UsageError(f'{message}; see {self.prog} --help')


def parser(program: str, description: str | None, **kwargs: Any) -> Parser:
  """Returns the argument parser of a program.

  Args:
    program: The program's name in the help text, such as 'kd-jax evaluate'.
    description: A docstring; the help text shows its first paragraph.
    **kwargs: Further arguments of `argparse.ArgumentParser`.
  """
  first = (description or '').split('\n\n')[0]
  return Parser(prog=program, description=first, **kwargs)
