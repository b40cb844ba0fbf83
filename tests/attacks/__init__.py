"""Attacks on kd_jax, and mistakes that look like them: what must do no harm.

An attack is a function that is marked with `attack`. It gets an empty folder,
does what a stranger, a full machine or a slip could do, and fails if harm is
done. Those that are quick are tests too; `python -m tests.attacks` runs all of
them, in processes that a crash ends for one attack alone, and prints a table.
"""

from collections.abc import Callable, Iterable
import dataclasses
import importlib
import pathlib
import pkgutil


@dataclasses.dataclass(frozen=True)
class Attack:
  """One thing to try.

  Attributes:
    name: Its name, such as 'images:strip[60000x1]'.
    run: Tries it in an empty folder; raises if harm is done.
    quick: Whether it takes less than about a second within a test.
  """

  name: str
  run: Callable[[pathlib.Path], None]
  quick: bool

  @property
  def kind(self) -> str:
    """The part of the name before the colon."""
    return self.name.partition(':')[0]


_ATTACKS: dict[str, Attack] = {}


def attack(*, quick: bool, cases: Iterable[object] | dict | None = None):
  """Registers a function as an attack, or as one for each of its cases.

  The kind is the name of the function's module.

  Args:
    quick: Whether each takes less than about a second within a test.
    cases: None for a function of a folder; else the second arguments of the
      function, by the name that the table shows, or a sequence of them.
  """

  def mark(function):
    kind = function.__module__.rpartition('.')[2]
    name = f'{kind}:{function.__name__}'
    if cases is None:
      named = {name: function}
    else:
      by_name = cases if isinstance(cases, dict) else {str(c): c for c in cases}
      named = {
        f'{name}[{case}]': lambda place, value=value: function(place, value)
        for case, value in by_name.items()
      }
    for each, run in named.items():
      assert each not in _ATTACKS, f'two attacks are called {each}'
      _ATTACKS[each] = Attack(each, run, quick)
    return function

  return mark


def everything() -> dict[str, Attack]:
  """Returns all attacks by name, from every module of this folder."""
  for module in pkgutil.iter_modules(__path__):
    if not module.name.endswith(('_test', '__main__')):
      importlib.import_module(f'{__name__}.{module.name}')
  return dict(_ATTACKS)
