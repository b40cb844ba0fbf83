"""The unpickler of files from outside, which builds what its heirs allow."""

from collections.abc import Callable
import pickle
from typing import Any, ClassVar

_DEEPEST = 100  # tuples within tuples


# Python's own unpickler: the one in C takes memory before it looks whether a
# damaged file can fill it.
class Unpickler(pickle._Unpickler):  # type: ignore[name-defined, misc]
  """An unpickler that refuses names, and tuples that are nested too deep.

  Python computes the hash of a tuple that is a key of a dict by recursion,
  which ends the process where a million of them are nested.
  """

  dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
    **pickle._Unpickler.dispatch  # type: ignore[attr-defined]
  }

  def __init__(self, *args: Any, **kwargs: Any):
    """Takes the arguments of `pickle.Unpickler`."""
    super().__init__(*args, **kwargs)
    self.depths: dict[int, int] = {}  # of tuples, by their identity

  def find_class(self, module: str, name: str) -> Any:
    """Refuses a name.

    Raises:
      UnpicklingError: Always.
    """
    raise pickle.UnpicklingError(f'it asks for {module}.{name}')


def _bounded(load: Callable[[Any], None]) -> Callable[[Any], None]:
  """Returns the function of an opcode that makes a tuple, with its check."""

  def bounded(reader: Any) -> None:
    load(reader)
    made, known = reader.stack[-1], reader.depths
    inner = [known.get(id(x), 0) for x in made if type(x) is tuple]
    known[id(made)] = depth = 1 + max(inner, default=0)
    if depth > _DEEPEST:
      raise pickle.UnpicklingError('too many tuples in one another')

  return bounded


for _code in (pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3):
  Unpickler.dispatch[_code[0]] = _bounded(Unpickler.dispatch[_code[0]])
